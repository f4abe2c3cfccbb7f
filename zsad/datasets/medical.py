"""The medical data sets of the papers: FAPrompt's ten, and what AA-CLIP adds.

Counts: FAPrompt's table 6; BMAD's test split; CVC-300 as in the polyp benchmark that AA-CLIP's
colon sets come from. Sizes are rough. Refuses to know how a layout is read
(`zsad.datasets.adapters`).
"""

from typing import Literal

from zsad.datasets.adapters import bmad, head_ct_csv, image_mask_pairs, two_folders
from zsad.datasets.named import Adapter, Category, Counts, DatasetName, NamedDataset

_RESEARCH = "research use, see its page"
_NOT_STATED = "not stated: ask its publishers"
_JPEG_MASKS = (
    "its masks are JPEG and read as anomalous above 127, where the released code takes all above 0"
)
_POLYP_BENCHMARK = "https://github.com/DengPingFan/PraNet"
_BMAD_HOME = "https://github.com/DorisBao/BMAD"

BRAIN_MRI = NamedDataset(
    name="brain_mri",
    title="BrainMRI",
    domain="medical",
    licence=_NOT_STATED,
    home="https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection",
    download="the archive; its folder brain_tumor_dataset repeats the same images and is not read",
    folder="BrainMRI",
    layout="no/* and yes/*",
    bytes_estimate=20_000_000,
    categories=(Category("brain_mri", "brain"),),
    adapter=two_folders(normal="no", anomalous="yes"),
    total=Counts(98, 155),
    published=Counts(98, 155),
    masks="none",
)

HEAD_CT = NamedDataset(
    name="head_ct",
    title="HeadCT",
    domain="medical",
    licence=_NOT_STATED,
    home="https://www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage",
    download="the archive",
    folder="HeadCT",
    layout="labels.csv and head_ct/head_ct/*.png",
    bytes_estimate=30_000_000,
    categories=(Category("head_ct", "brain"),),
    adapter=head_ct_csv,
    total=Counts(100, 100),
    published=Counts(100, 100),
    masks="none",
)

LAG = NamedDataset(
    name="lag",
    title="LAG",
    domain="medical",
    licence="academic use only, not to be passed on",
    home="https://github.com/smilell/AG-CNN",
    download="LAG_database_part_1.rar (its password is given on request)",
    folder="LAG",
    layout="non_glaucoma/image/*.jpg and suspicious_glaucoma/image/*.jpg",
    bytes_estimate=400_000_000,
    categories=(Category("LAG", "fundus"),),
    adapter=two_folders(
        normal="non_glaucoma/image", anomalous="suspicious_glaucoma/image", normal_test_only=True
    ),
    total=Counts(786, 1711),
    published=Counts(786, 1711),
    deviation="it has no test split of normal images; a quarter of the sorted images is drawn, "
    "which gives the papers' number, perhaps of other images",
    masks="none",
)

BR35H = NamedDataset(
    name="br35h",
    title="Br35H",
    domain="medical",
    licence=_NOT_STATED,
    home="https://www.kaggle.com/datasets/ahmedhamada0/brain-tumor-detection",
    download="the archive; its folders pred and Br35H-Mask-RCNN are not read",
    folder="Br35H",
    layout="no/* and yes/*",
    bytes_estimate=90_000_000,
    categories=(Category("br35h", "brain"),),
    adapter=two_folders(normal="no", anomalous="yes"),
    total=Counts(1500, 1500),
    published=Counts(1500, 1500),
    masks="none",
)


def _colon(
    name: DatasetName,
    title: str,
    folder: str,
    n_images: int,
    *,
    licence: str,
    home: str,
    download: str,
    bytes_estimate: int,
    deviation: str = "",
) -> NamedDataset:
    """A set of polyps, each image with a mask and none normal."""
    return NamedDataset(
        name=name,
        title=title,
        domain="medical",
        licence=licence,
        home=home,
        download=download,
        folder=folder,
        layout="images/* and masks/*, or Original/* and Ground Truth/*, perhaps in PNG",
        bytes_estimate=bytes_estimate,
        categories=(Category(name, "colon"),),
        adapter=image_mask_pairs(
            ("images", "masks"),
            ("PNG/Original", "PNG/Ground Truth"),
            ("Original", "Ground Truth"),
            defect="polyp",
        ),
        total=Counts(0, n_images),
        published=Counts(0, n_images),
        deviation=deviation,
    )


CVC_COLONDB = _colon(
    "cvc_colondb",
    "CVC-ColonDB",
    "CVC-ColonDB",
    380,
    licence=_RESEARCH,
    home=_POLYP_BENCHMARK,
    download="CVC-ColonDB of TestDataset.zip (380 images; the first release has only 300)",
    bytes_estimate=150_000_000,
)

CVC_CLINICDB = _colon(
    "cvc_clinicdb",
    "CVC-ClinicDB",
    "CVC-ClinicDB",
    612,
    licence=_RESEARCH,
    home="https://polyp.grand-challenge.org/CVCClinicDB/",
    download="CVC-ClinicDB.rar with all 612 images (the polyp benchmark's test part has 62)",
    bytes_estimate=400_000_000,
)

KVASIR = _colon(
    "kvasir",
    "Kvasir",
    "Kvasir-SEG",
    1000,
    licence="research and education, see its page",
    home="https://datasets.simula.no/kvasir-seg/",
    download="kvasir-seg.zip with all 1000 images (the polyp benchmark's test part has 100)",
    bytes_estimate=50_000_000,
    deviation=_JPEG_MASKS,
)

ENDO = _colon(
    "endo",
    "Endo",
    "EndoTect_2020_Segmentation_Test_Dataset",
    200,
    licence=_NOT_STATED,
    home="https://endotect.com/",
    download="the segmentation test data set of 2020 with its masks",
    bytes_estimate=30_000_000,
    deviation=_JPEG_MASKS,
)

CVC_300 = _colon(
    "cvc_300",
    "CVC-300",
    "CVC-300",
    60,
    licence=_RESEARCH,
    home=_POLYP_BENCHMARK,
    download="CVC-300 of TestDataset.zip",
    bytes_estimate=30_000_000,
)

ISIC = NamedDataset(
    name="isic",
    title="ISIC",
    domain="medical",
    licence="CC0",
    home="https://challenge.isic-archive.com/data/#2016",
    download="test data and test ground truth of task 1 of 2016",
    folder="ISIC2016",
    layout="ISBI2016_ISIC_Part1_Test_Data/*.jpg and ISBI2016_ISIC_Part1_Test_GroundTruth/"
    "*_Segmentation.png",
    bytes_estimate=250_000_000,
    categories=(Category("isic", "skin"),),
    adapter=image_mask_pairs(
        ("ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth"),
        mask_endings=("_Segmentation",),
        defect="lesion",
    ),
    total=Counts(0, 379),
    published=Counts(0, 379),
)

TN3K = NamedDataset(
    name="tn3k",
    title="TN3K",
    domain="medical",
    licence=_RESEARCH,
    home="https://github.com/haifangong/TRFE-Net-for-thyroid-nodule-segmentation",
    download="the thyroid data sets; their folder tn3k is this one",
    folder="tn3k",
    layout="test-image/*.jpg and test-mask/*.jpg",
    bytes_estimate=300_000_000,
    categories=(Category("tn3k", "thyroid"),),
    adapter=image_mask_pairs(("test-image", "test-mask"), defect="nodule"),
    total=Counts(0, 614),
    published=Counts(0, 614),
    deviation=_JPEG_MASKS,
)


def _bmad(
    name: Literal["bmad_brain", "bmad_liver", "bmad_retina"],
    title: str,
    folder: str,
    inner: str,
    noun: str,
    total: Counts,
    origin: str,
) -> NamedDataset:
    adapter: Adapter = bmad(inner)
    return NamedDataset(
        name=name,
        title=title,
        domain="medical",
        licence=f"that of {origin}, from which it is made",
        home=_BMAD_HOME,
        download=f"{folder}.zip",
        folder=folder,
        layout="test/good/img, test/Ungood/img and test/Ungood/label, perhaps in a folder of the "
        f"archive ({inner})",
        bytes_estimate=500_000_000,
        categories=(Category(name, noun),),
        adapter=adapter,
        total=total,
        published=total,
    )


BMAD_BRAIN = _bmad(
    "bmad_brain",
    "Brain MRI",
    "Brain_AD",
    "BraTS2021_slice",
    "brain",
    Counts(640, 3075),
    "BraTS 2021",
)

BMAD_LIVER = _bmad(
    "bmad_liver",
    "Liver CT",
    "Liver_AD",
    "hist_DIY",
    "liver",
    Counts(833, 660),
    "BTCV and LiTS",
)

BMAD_RETINA = _bmad(
    "bmad_retina",
    "Retina OCT",
    "Retina_RESC_AD",
    "RESC",
    "retina",
    Counts(1041, 764),
    "RESC",
)
