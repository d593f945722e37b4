"""Keys and names that must not pass, each with the words of its answer."""
# ruff: noqa: E501 - a line an input

from typing import NamedTuple

GOOD = ["images/Good.nii.gz", "masks/Good.nii.gz"]


class Keys(NamedTuple):
    """What is wrong, the keys beside the good case, and whose refusal must hold which words."""

    what: str
    keys: list[str]
    refused: dict[str, str]


def _both(name: str) -> list[str]:
    return [f"images/{name}.npy", f"masks/{name}.npy"]


KEYS = [
    Keys("no UTF-8", _both("P\udcff\udcfe"), {"P\\udcff\\udcfe": "characters"}),
    Keys("a line break", _both("P\n2 labelled scans"), {"P\\n2 labelled scans": "characters"}),
    Keys("a terminal's commands", _both("\x1b[2J\x1b[31mP"), {"\\x1b[2J\\x1b[31mP": "characters"}),
    Keys("a null", _both("P\0"), {"P\\x00": "characters"}),
    Keys("a turned direction of reading", _both("P\u202egnp"), {"P\\u202egnp": "characters"}),
    Keys("out of the folder", ["../../images/P.npy"], {"../../images/P.npy": "leaves its folder"}),
    Keys("out of the folder in the middle", ["a/../images/P.npy"], {"a/../images/P.npy": "leaves its folder"}),
    Keys("from the root", ["/images/P.npy"], {"/images/P.npy": "leaves its folder"}),
    Keys("an empty step", ["a//images/P.npy"], {"a//images/P.npy": "leaves its folder"}),
    Keys("4,000 characters", _both("x" * 4000), {"x" * 50: "long"}),
    Keys("241 bytes of Thai", _both("ก" * 81), {"ก" * 50: "long"}),
    Keys("a thousand folders", ["a/" * 1000 + "images/P.npy"], {"a/": "long"}),
    Keys("a file where a folder is", ["images/P.npy", "images/P.npy/images/Q.npy"], {"P": "file and", "Q": "file and"}),
    Keys("a mask alone", ["masks/P.npy"], {"P": "mask without an image"}),
    Keys("two types", ["images/P.npy", "images/P.nii.gz", "masks/P.npy"], {"P": "two files in images/"}),
    Keys("two masks", ["images/P.npy", "masks/P.npy", "masks/P.nii"], {"P": "2 masks where one is expected"}),
    Keys("an image and a mask of two data sets", ["a/images/P.npy", "b/masks/P.npy"], {"P": "are in two data sets"}),
    Keys("slices of two data sets", ["a/images/P_Slice_1.npy", "b/images/P_Slice_2.npy"], {"P": "in several folders"}),
    Keys("another patient's folder", ["sub-1/images/sub-2.npy", "sub-1/masks/sub-2.npy"], {"sub-2": "another patient"}),
    Keys("another session's folder", ["sub-1/ses-1/images/ses-2.npy"], {"ses-2": "another session"}),
    Keys("other case", [*_both("P1"), *_both("p1")], {"P1": "differ only in case", "p1": "differ only in case"}),
    Keys("other case of the ending", ["images/P.npy", "images/P.NPY"], {"P": "two files in images/"}),
    Keys("other case in the mask", ["images/P.npy", "masks/p.npy"], {"P": "only in case", "p": "only in case"}),
    Keys("two codings of an accent", [*_both("Ren\u00e9"), *_both("Rene\u0301")], {"Ren\u00e9": "two files in images/"}),
    Keys("two codings of Thai", [*_both("น\u0e33"), *_both("น\u0e4d\u0e32")], {"น\u0e33": "only in", "น\u0e4d\u0e32": "only in"}),
    Keys("a space more", [*_both("P 1"), *_both("P  1")], {"P 1": "only in", "P  1": "only in"}),
    Keys("an unseen space", [*_both("P\u200b1"), *_both("P1")], {"P\u200b1": "only in", "P1": "only in"}),
    Keys("a slice twice", [*_both("P_Slice_1"), *_both("P_Slice_01")], {"P": "given twice"}),
    Keys("a slice number twice, in Thai too", [*_both("P_Slice_1"), *_both("P_Slice_๑")], {"P": "given twice"}),
    Keys("a slice number of 30 digits", _both("P_Slice_" + "9" * 30), {"P": "slice number"}),
    Keys("slices and a volume", [*_both("P"), *_both("P_Slice_1")], {"P": "as one volume and as single slices"}),
    Keys("slices of two formats", [*_both("P_Slice_1"), "images/P_Slice_2.nii.gz"], {"P": "formats"}),
    Keys("slices with masks of another format", ["images/P_Slice_1.npy", "masks/P_Slice_1.nii.gz"], {"P": "formats"}),
    Keys("a slice without its mask", [*_both("P_Slice_1"), "images/P_Slice_2.npy"], {"P": "have no mask"}),
]  # fmt: skip

FINE = ["-rf", "--help", "; rm -rf ~", "<script>alert(1)", "<img src=x onerror=alert(1)>", "a|b", "`id`", "$(id)", "%s%n", "O'Brien", '"quoted"',
        "[x](javascript:alert(1))", "=1+1", "ผู้ป่วย ๑", "Müller", "e\u0301", "😀", "CON", "a&amp;b", "{{ 7*7 }}", "x" * 200]  # fmt: skip
"""Names that are strange, and a patient's all the same."""
