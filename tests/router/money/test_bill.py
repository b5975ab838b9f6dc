"""Bills: receipts added up, and as text."""

from msgspec.structs import replace

from smallfirst.router import Bill, Receipt
from smallfirst.router.money.bill import BillLine

LOCAL = Receipt("r1", "local", "small", "easy", 0.9, "miss", 0.0, 0.002, 1.0, 1)
CLOUD = Receipt("r2", "cloud", "big", "hard", 0.2, "miss", 0.003, 0.0, 1.0, 1)
UNKNOWN = replace(CLOUD, model="other", cost_usd=None, saved_usd=None)


def test_a_line_for_each_place_and_model() -> None:
    bill = Bill([LOCAL, CLOUD, LOCAL])
    assert bill.lines == (
        BillLine("local", "small", 2, cost_usd=0.0, unknown=0, all_cloud_usd=0.004, saved_usd=0.004),
        BillLine("cloud", "big", 1, cost_usd=0.003, unknown=0, all_cloud_usd=0.003, saved_usd=0.0),
    )
    assert bill.total == BillLine("", "", 3, cost_usd=0.003, unknown=0, all_cloud_usd=0.007, saved_usd=0.004)


def test_what_is_unknown_is_in_no_sum() -> None:
    bill = Bill([CLOUD])
    bill.add(UNKNOWN)
    assert bill.total == BillLine("", "", 2, cost_usd=0.003, unknown=1, all_cloud_usd=0.003, saved_usd=0.0)
    assert "+1 unknown" in str(bill)
    assert str(bill).endswith("of the requests whose cost is known; saved $0 (0.0%).")


def test_without_a_cloud_there_is_nothing_to_compare_with() -> None:
    bill = Bill([replace(LOCAL, saved_usd=None)])
    assert bill.total.all_cloud_usd is None
    assert str(bill).endswith("no price of a cloud model is known for these requests.")


def test_a_bill_says_what_ran_where() -> None:
    lines = [line.replace("│", "|").split("|") for line in str(Bill([LOCAL, CLOUD])).splitlines()]
    cells = [[cell.strip() for cell in line[1:-1]] for line in lines if len(line) > 2]
    assert cells == [
        ["cloud", "big", "1", "$0.003000", "$0.003000"],
        ["local", "small", "1", "$0", "$0.002000"],
        ["total", "", "2", "$0.003000", "$0.005000"],
    ]
    assert str(Bill([LOCAL, CLOUD])).endswith("would have cost $0.005000; saved $0.002000 (40.0%).")


def test_an_empty_bill_is_one() -> None:
    assert Bill().total == BillLine("", "", 0, 0, 0, None, None)
    assert "total" in str(Bill())
