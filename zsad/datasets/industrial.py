"""The nine industrial data sets of the papers.

Counts: FAPrompt's tables 5 and 6; of single categories where those tables give only the whole set,
the publishers'. Sizes are rough. Refuses to know how a layout is read (`zsad.datasets.adapters`).
"""

from zsad.data import prompt_noun
from zsad.datasets.adapters import dagm_classes, elpv_csv, mvtec_tree, visa_csv
from zsad.datasets.crops import cut_aitex, cut_sdd
from zsad.datasets.named import Category, Counts, NamedDataset

_NC_SA = "CC BY-NC-SA 4.0"
_TREE = "<category>/test/<defect>/*.png and <category>/ground_truth/<defect>/*_mask.png"
_NOT_STATED = "not stated: ask its publishers"
_QUARTER = (
    "it has no test split of normal images; a quarter of them is drawn as in the scripts that the "
    "papers' numbers come from"
)


def _categories(counts: dict[str, tuple[int, int]], noun: str = "") -> tuple[Category, ...]:
    """Categories with their normal and anomalous test images, and one noun for all or their own."""
    return tuple(
        Category(name, noun or prompt_noun(name), Counts(normal, anomalous))
        for name, (normal, anomalous) in counts.items()
    )


MVTEC_AD = NamedDataset(
    name="mvtec_ad",
    title="MVTecAD",
    domain="industrial",
    licence=_NC_SA,
    home="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    download="mvtec_anomaly_detection.tar.xz",
    folder="mvtec_anomaly_detection",
    layout=_TREE,
    bytes_estimate=5_300_000_000,
    categories=_categories(
        {
            "carpet": (28, 89),
            "grid": (21, 57),
            "leather": (32, 92),
            "tile": (33, 84),
            "wood": (19, 60),
            "bottle": (20, 63),
            "capsule": (23, 109),
            "pill": (26, 141),
            "transistor": (60, 40),
            "zipper": (32, 119),
            "cable": (58, 92),
            "hazelnut": (40, 70),
            "metal_nut": (22, 93),
            "screw": (41, 119),
            "toothbrush": (12, 30),
        }
    ),
    adapter=mvtec_tree,
    total=Counts(467, 1258),
    published=Counts(467, 1257),
    deviation="tile has 84 anomalous images in the public set, 83 in FAPrompt's table",
)

VISA = NamedDataset(
    name="visa",
    title="VisA",
    domain="industrial",
    licence="CC BY 4.0",
    home="https://github.com/amazon-science/spot-diff",
    download="VisA_20220922.tar",
    folder="VisA_20220922",
    layout="<category>/Data/Images, <category>/Data/Masks and split_csv/1cls.csv",
    bytes_estimate=2_000_000_000,
    categories=_categories(
        {
            "candle": (100, 100),
            "capsules": (60, 100),
            "cashew": (50, 100),
            "chewinggum": (50, 100),
            "fryum": (50, 100),
            "macaroni1": (100, 100),
            "macaroni2": (100, 100),
            "pcb1": (100, 100),
            "pcb2": (100, 100),
            "pcb3": (101, 100),
            "pcb4": (101, 100),
            "pipe_fryum": (50, 100),
        }
    ),
    adapter=visa_csv,
    total=Counts(962, 1200),
    published=Counts(962, 1200),
)

SDD = NamedDataset(
    name="sdd",
    title="SDD",
    domain="industrial",
    licence=_NC_SA,
    home="https://www.vicos.si/resources/kolektorsdd/",
    download="KolektorSDD.zip with the original annotations",
    folder="KolektorSDD",
    layout="kos*/Part*.jpg with Part*_label.bmp",
    bytes_estimate=700_000_000,
    categories=(Category("SDD", "electrical commutator"),),
    adapter=mvtec_tree,
    total=Counts(286, 54),
    published=Counts(286, 54),
    deviation=f"pictures are cut in three; {_QUARTER}, but out of sorted crops: other ones",
    prepare=cut_sdd,
)

BTAD = NamedDataset(
    name="btad",
    title="BTAD",
    domain="industrial",
    licence=f"{_NC_SA}; the archive's readme says CC BY-SA",
    home="https://github.com/pankajmishra000/VT-ADL",
    download="btad.zip",
    folder="BTech_Dataset_transformed",
    layout="01, 02, 03, each with test/ok, test/ko and ground_truth/ko",
    bytes_estimate=2_700_000_000,
    categories=_categories({"01": (21, 49), "02": (30, 200), "03": (400, 41)}, "industrial part"),
    adapter=mvtec_tree,
    total=Counts(451, 290),
    published=Counts(451, 290),
)

MPDD = NamedDataset(
    name="mpdd",
    title="MPDD",
    domain="industrial",
    licence=_NC_SA,
    home="https://github.com/stepanje/MPDD",
    download="MPDD.zip",
    folder="MPDD",
    layout=_TREE,
    bytes_estimate=1_800_000_000,
    categories=_categories(
        {
            "bracket_black": (32, 47),
            "bracket_brown": (26, 51),
            "bracket_white": (30, 30),
            "connector": (30, 14),
            "metal_plate": (26, 71),
            "tubes": (32, 69),
        }
    ),
    adapter=mvtec_tree,
    total=Counts(176, 282),
    published=Counts(176, 282),
)

AITEX = NamedDataset(
    name="aitex",
    title="AITEX",
    domain="industrial",
    licence=_NOT_STATED,
    home="https://www.aitex.es/afid/",
    download="Defect_images, NODefect_images and Mask_images",
    folder="AITEX",
    layout="Defect_images/*.png, Mask_images/*_mask*.png and NODefect_images/*/*.png",
    bytes_estimate=300_000_000,
    categories=(Category("AITEX", "fabric"),),
    adapter=mvtec_tree,
    total=Counts(564, 183),
    published=Counts(564, 183),
    deviation=f"strips are cut into squares of 256 px; {_QUARTER}, but out of sorted squares: "
    "other ones",
    prepare=cut_aitex,
)

DAGM = NamedDataset(
    name="dagm",
    title="DAGM",
    domain="industrial",
    licence="as stated on its page",
    home="https://zenodo.org/records/12750201",
    download="all ten classes",
    folder="DAGM",
    layout="Class1 ... Class10, each with Test/*.PNG and Test/Label/*_label.PNG",
    bytes_estimate=3_300_000_000,
    categories=_categories(
        {
            "Class1": (504, 71),
            "Class2": (491, 84),
            "Class3": (491, 84),
            "Class4": (507, 68),
            "Class5": (495, 80),
            "Class6": (508, 67),
            "Class7": (1000, 150),
            "Class8": (1000, 150),
            "Class9": (1000, 150),
            "Class10": (1000, 150),
        },
        "textured surface",
    ),
    adapter=dagm_classes,
    total=Counts(6996, 1054),
    published=Counts(6996, 1054),
)

_DTD_TEXTURES = {
    "Woven_001": "woven texture",
    "Woven_127": "woven texture",
    "Woven_104": "woven texture",
    "Stratified_154": "stratified texture",
    "Blotchy_099": "blotchy texture",
    "Woven_068": "woven texture",
    "Woven_125": "woven texture",
    "Marbled_078": "marbled texture",
    "Perforated_037": "perforated texture",
    "Mesh_114": "mesh texture",
    "Fibrous_183": "fibrous texture",
    "Matted_069": "matted texture",
}

DTD_SYNTHETIC = NamedDataset(
    name="dtd_synthetic",
    title="DTD-Synthetic",
    domain="industrial",
    licence=_NOT_STATED,
    home="https://drive.google.com/drive/folders/10OyPzvI3H6llCZBxKxFlKWt1Pw1tkMK1",
    download="DTD-Synthetic",
    folder="DTD-Synthetic",
    layout=_TREE,
    bytes_estimate=1_000_000_000,
    categories=tuple(Category(name, noun) for name, noun in _DTD_TEXTURES.items()),
    adapter=mvtec_tree,
    total=Counts(357, 947),
    published=Counts(357, 947),
)

ELPV = NamedDataset(
    name="elpv",
    title="ELPV",
    domain="industrial",
    licence=_NC_SA,
    home="https://github.com/zae-bayern/elpv-dataset",
    download="a copy of the repository",
    folder="elpv-dataset",
    layout="labels.csv and images/*.png, at its root or in src/elpv_dataset/data",
    bytes_estimate=100_000_000,
    categories=(Category("elpv", "solar cell"),),
    adapter=elpv_csv,
    total=Counts(377, 715),
    published=Counts(377, 715),
    deviation=f"{_QUARTER}; cells of probability 1/3 and 2/3 are left out",
    masks="none",
)
