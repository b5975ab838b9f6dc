# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""`plain`, compiled. What is checked there by numpy is checked here at the door: shapes, and that indices lie inside."""

import numpy as np

from .tables import Reading

from libc.math cimport exp, expf, fmaxf, fminf, log, log1pf, logf, sqrt
from libc.string cimport memset

# Figures that there is room for on the stack; wider tables are refused.
cpdef enum:
    WIDEST = 2048

cdef enum:
    NODES = 7
    LEAVES = 8


def unit_mean(const float[:, ::1] vectors, const int[::1] ids):
    """See `plain.unit_mean`."""
    cdef Py_ssize_t n = ids.shape[0], width = vectors.shape[1], at, d
    cdef float total[WIDEST]
    cdef double squared = 0
    cdef float scale
    cdef const float *row
    if width > WIDEST:
        raise ValueError(f"vectors have {width} dimensions; at most {WIDEST} are known here")
    _require_inside(ids, vectors.shape[0])
    found = np.empty(width, np.float32)
    cdef float[::1] out = found
    memset(total, 0, width * sizeof(float))
    for at in range(n):
        row = &vectors[ids[at], 0]
        for d in range(width):
            total[d] += row[d]
    for d in range(width):
        squared += <double> total[d] * total[d]
    scale = <float> (1 / sqrt(squared)) if squared > 0 else 0
    for d in range(width):
        out[d] = total[d] * scale
    return found


def read_tokens(const int[::1] ids, const unsigned char[:, ::1] classes, const float[::1] log_rank, unsigned int buckets):
    """See `plain.read_tokens`."""
    cdef Py_ssize_t n = ids.shape[0], kinds = classes.shape[1], vocabulary = classes.shape[0]
    cdef Py_ssize_t at, kind, distinct = 0, words = 0, rank_at
    cdef int counts[WIDEST]
    cdef double ranks = 0
    cdef float high = 0
    cdef const unsigned char *row
    if kinds > WIDEST or log_rank.shape[0] < vocabulary or not 1 <= buckets <= 1 << 24:
        raise ValueError("the tables do not fit together")
    if n == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.float32), [0.0] * (3 + 2 * kinds)
    _require_inside(ids, vocabulary)
    memset(counts, 0, kinds * sizeof(int))
    both = np.empty(2 * n - 1, np.int32)
    cdef int[::1] every = both
    for at in range(n):
        every[at] = ids[at]
        ranks += log_rank[ids[at]]
        row = &classes[ids[at], 0]
        for kind in range(kinds):
            counts[kind] += row[kind]
    for at in range(n - 1):
        every[n + at] = <int> (_pair(ids[at], ids[at + 1], buckets) + <unsigned int> vocabulary)
    both.sort()
    # As many as there are at most; cut to what was found.
    times = np.empty(2 * n - 1, np.float32)
    cdef float[::1] often = times
    rank_at = (9 * n) // 10
    for at in range(2 * n - 1):
        if at == rank_at:
            high = log_rank[every[at]]
        if at > 0 and every[at] == every[distinct - 1]:
            often[distinct - 1] += 1
            continue
        every[distinct] = every[at]
        often[distinct] = 1
        words += every[at] < vocabulary
        distinct += 1
    columns = [words / <double> n, ranks / n, high]
    columns.extend([counts[kind] / <double> n for kind in range(kinds)])
    columns.extend([log1pf(counts[kind]) for kind in range(kinds)])
    return both[:distinct], times[:distinct], columns


cdef class Inference:
    """See `plain.Inference`."""

    cdef const float[::1] mean, scale, bias
    cdef const float[:, ::1] dense, of_focus, of_ngrams, of_topics, split_at, leaves
    cdef const int[:, ::1] split_column
    cdef const int[::1] tree_head
    cdef const double[::1] tree_bias, difficulty
    cdef const double[:, ::1] figures
    cdef Py_ssize_t heads, topics, tasks, axes, tokens_at, chars_at, weak, strong
    cdef float clip
    cdef double counts

    def __init__(self, tables):
        self.mean, self.scale, self.bias = tables.mean, tables.scale, tables.bias
        self.dense, self.of_focus, self.of_ngrams = tables.dense, tables.of_focus, tables.of_ngrams
        self.of_topics, self.split_at, self.leaves = tables.of_topics, tables.split_at, tables.leaves
        self.split_column, self.tree_head, self.tree_bias = tables.split_column, tables.tree_head, tables.tree_bias
        self.difficulty, self.figures = tables.difficulty, tables.heads
        self.clip, self.axes = tables.clip, tables.axes
        self.tokens_at, self.chars_at = tables.length_columns
        self.weak, self.strong, self.counts = tables.compared
        self.heads, self.topics = self.figures.shape[0], self.of_topics.shape[0]
        self.tasks = self.bias.shape[0] - self.heads - self.topics - 1
        self._check(tables)

    def _check(self, tables):
        """What the loops below rely on."""
        structural, width = len(tables.mean), len(tables.of_focus)
        columns = structural + tables.axes + 1
        fits = (
            tables.widest <= WIDEST
            and self.tasks >= 1
            and tables.scale.shape == (structural,)
            and tables.dense.shape == (structural + 2 * width, len(tables.bias))
            and tables.of_ngrams.shape[1] == 1 + self.heads
            and tables.of_topics.shape[1] == 2 * self.heads
            and tables.axes < tables.of_focus.shape[1]
            and tables.split_column.shape == tables.split_at.shape == (len(tables.leaves), NODES)
            and tables.leaves.shape[1] == LEAVES
            and tables.tree_head.shape == (len(tables.leaves),)
            and tables.tree_bias.shape == (self.heads + 1,)
            and tables.heads.shape[1] == tables.difficulty.shape[0] == 7
            and 0 <= tables.split_column.min() <= tables.split_column.max() < columns
            and 0 <= tables.tree_head.min() <= tables.tree_head.max() <= self.heads
            and 0 <= min(tables.length_columns) <= max(tables.length_columns) < structural
            and 0 <= min(self.weak, self.strong) <= max(self.weak, self.strong) < self.heads
        )
        if not fits:
            raise ValueError("the classifier's arrays do not fit together")

    def read(
        self,
        const float[::1] structure,
        const float[::1] focus,
        const float[::1] context,
        const int[::1] ngrams,
        const float[::1] ngram_counts,
    ):
        """See `plain.Inference.read`."""
        cdef Py_ssize_t structural = self.mean.shape[0], width = self.of_focus.shape[0]
        cdef Py_ssize_t wide = self.bias.shape[0], at, kind
        cdef float said[WIDEST]
        cdef float seen[WIDEST]
        cdef float columns[WIDEST]
        cdef double trees[WIDEST]
        cdef float similarity
        cdef double hardness
        if structure.shape[0] != structural or focus.shape[0] != width:
            raise ValueError("features of other shapes than the classifier's")
        if (context is not None and context.shape[0] != width) or ngrams.shape[0] != ngram_counts.shape[0]:
            raise ValueError("features of other shapes than the classifier's")
        _require_inside(ngrams, self.of_ngrams.shape[0])
        for kind in range(wide):
            said[kind] = self.bias[kind]
        memset(seen, 0, self.of_focus.shape[1] * sizeof(float))
        for at in range(structural):
            columns[at] = (structure[at] - self.mean[at]) / self.scale[at]
            columns[at] = fmaxf(fminf(columns[at], self.clip), -self.clip)
        _add_product(said, columns, &self.dense[0, 0], structural, wide)
        _add_product(said, &focus[0], &self.dense[structural, 0], width, wide)
        _add_product(seen, &focus[0], &self.of_focus[0, 0], width, self.of_focus.shape[1])
        if context is not None:
            for at in range(width):
                columns[at] = context[at] - focus[at]
            _add_product(said, columns, &self.dense[structural + width, 0], width, wide)
        self._add_ngrams(said, ngrams, ngram_counts)
        hardness = self._hardness(said[wide - 1], structure)
        for at in range(structural):
            columns[at] = structure[at]
        for at in range(self.axes):
            columns[structural + at] = seen[at]
        columns[structural + self.axes] = <float> hardness
        self._add_trees(trees, columns)
        similarity = seen[self.axes]
        for at in range(self.axes + 1, self.of_focus.shape[1]):
            similarity = fmaxf(similarity, seen[at])
        axes = np.empty(self.axes, np.float32)
        cdef float[::1] where = axes
        for at in range(self.axes):
            where[at] = seen[at]
        odds = self._log_odds(said, trees, hardness)
        return Reading(odds, self._tasks(&said[self.heads + self.topics]), hardness, axes, similarity)

    cdef void _add_ngrams(self, float *said, const int[::1] ngrams, const float[::1] counts) noexcept:
        """The linear part over TF-IDF, of length 1, with sublinear counts."""
        cdef Py_ssize_t at, head
        cdef float found[WIDEST]
        cdef float weight
        cdef double squared = 0
        memset(found, 0, self.heads * sizeof(float))
        for at in range(ngrams.shape[0]):
            weight = self.of_ngrams[ngrams[at], 0]
            if weight == 0:
                continue
            if counts[at] != 1:
                weight *= 1 + logf(counts[at])
            squared += <double> weight * weight
            _add(found, &self.of_ngrams[ngrams[at], 1], weight, self.heads)
        if squared > 0:
            for head in range(self.heads):
                said[head] += found[head] / <float> sqrt(squared)

    cdef double _hardness(self, double learned, const float[::1] structure) noexcept:
        """As `difficulty_of`, of one request."""
        cdef const double *figure = &self.difficulty[0]
        cdef double length = structure[self.tokens_at] + log(max(<double> structure[self.chars_at], 0.1))
        cdef double share = _logistic(1.702 * (learned - figure[0]) / figure[1])
        return (share + figure[4] * _logistic(1.702 * (length - figure[2]) / figure[3]) - figure[5]) / figure[6]

    cdef void _add_trees(self, double *sums, const float *columns) noexcept:
        """Log-odds by head from the trees, then the gain."""
        cdef Py_ssize_t tree, head
        cdef int node
        cdef const int *looked_at
        cdef const float *threshold
        for head in range(self.heads + 1):
            sums[head] = self.tree_bias[head]
        for tree in range(self.leaves.shape[0]):
            looked_at, threshold = &self.split_column[tree, 0], &self.split_at[tree, 0]
            node = columns[looked_at[0]] > threshold[0]
            node = 2 * node + 1 + (columns[looked_at[1 + node]] > threshold[1 + node])
            node = 2 * node + 1 + (columns[looked_at[node + 2]] > threshold[node + 2])
            sums[self.tree_head[tree]] += self.leaves[tree, node - 3]

    cdef list _log_odds(self, const float *said, const double *trees, double hardness):
        """The heads' log-odds of success; as `Classifier.log_odds`, of one request."""
        cdef Py_ssize_t topic, head, topics = self.topics, heads = self.heads
        cdef const float *by_topic = &said[heads]
        cdef const double *figure
        cdef float most = by_topic[0], raised, total = 0
        cdef float topical[WIDEST]
        cdef double odds[WIDEST]
        cdef double mixed, own, covered, low, high, change
        memset(topical, 0, 2 * heads * sizeof(float))
        for topic in range(1, topics):
            most = fmaxf(most, by_topic[topic])
        for topic in range(topics):
            raised = expf(by_topic[topic] - most)
            total += raised
            _add(topical, &self.of_topics[topic, 0], raised, 2 * heads)
        for head in range(heads):
            figure = &self.figures[head, 0]
            covered = topical[heads + head] / total
            mixed = figure[0] * _logistic(said[head]) + figure[1] * topical[head] / total
            mixed += figure[2] * _logistic(trees[head])
            own = figure[3] * _log_odds_of(mixed, 1e-4) + figure[4]
            odds[head] = covered * own + (1 - covered) * (figure[5] + figure[6] * hardness)
        low, high = _logistic(odds[self.weak]), _logistic(odds[self.strong])
        change = self.counts / 2 * (topical[heads + self.strong] / total) * (trees[heads] - (high - low))
        odds[self.weak] = _log_odds_of(low - change, 1e-3)
        odds[self.strong] = _log_odds_of(high + change, 1e-3)
        return [odds[head] for head in range(heads)]

    cdef list _tasks(self, const float *said):
        """Softmax."""
        cdef Py_ssize_t task
        cdef double raised[WIDEST]
        cdef double total = 0
        cdef float most = said[0]
        for task in range(1, self.tasks):
            most = fmaxf(most, said[task])
        for task in range(self.tasks):
            raised[task] = exp(<double> said[task] - most)
            total += raised[task]
        return [raised[task] / total for task in range(self.tasks)]


cdef void _add_product(
    float *to, const float *vector, const float *matrix, Py_ssize_t rows, Py_ssize_t width
) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(rows):
        _add(to, matrix + row * width, vector[row], width)


cdef inline void _add(float *to, const float *row, float times, Py_ssize_t width) noexcept nogil:
    cdef Py_ssize_t at
    for at in range(width):
        to[at] += times * row[at]


cdef inline double _logistic(double odds) noexcept nogil:
    return 1 / (1 + exp(-max(-30.0, min(30.0, odds))))


cdef inline double _log_odds_of(double share, double least) noexcept nogil:
    cdef double kept = max(least, min(1 - least, share))
    return log(kept / (1 - kept))


cdef int _require_inside(const int[::1] ids, Py_ssize_t size) except -1:
    cdef Py_ssize_t at
    for at in range(ids.shape[0]):
        if ids[at] < 0 or ids[at] >= size:
            raise IndexError("an id beyond the vocabulary")
    return 0


cdef inline unsigned int _pair(int first, int second, unsigned int buckets) noexcept nogil:
    cdef unsigned int mixed = <unsigned int> first * <unsigned int> 2654435761 + <unsigned int> second * <unsigned int> 40503
    return (mixed ^ (mixed >> 15)) & (buckets - 1)
