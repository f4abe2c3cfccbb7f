"""The published data sets by name: FAPrompt's nineteen and what AA-CLIP adds.

Refuses to know the user's own data (`zsad.datasets.layouts`).
"""

from typing import get_args

from zsad.datasets import industrial, medical
from zsad.datasets.named import DatasetName, NamedDataset

DATASET_NAMES: tuple[DatasetName, ...] = get_args(DatasetName)

_CATALOGUE: dict[DatasetName, NamedDataset] = {
    dataset.name: dataset
    for dataset in (
        industrial.MVTEC_AD,
        industrial.VISA,
        industrial.SDD,
        industrial.BTAD,
        industrial.MPDD,
        industrial.AITEX,
        industrial.DAGM,
        industrial.DTD_SYNTHETIC,
        industrial.ELPV,
        medical.BRAIN_MRI,
        medical.HEAD_CT,
        medical.LAG,
        medical.BR35H,
        medical.CVC_COLONDB,
        medical.CVC_CLINICDB,
        medical.KVASIR,
        medical.ENDO,
        medical.ISIC,
        medical.TN3K,
        medical.CVC_300,
        medical.BMAD_BRAIN,
        medical.BMAD_LIVER,
        medical.BMAD_RETINA,
    )
}


def named_dataset(name: DatasetName) -> NamedDataset:
    """A data set of the catalogue."""
    return _CATALOGUE[name]
