"""What each public dataset is: its page, licence and citation."""

from typing import NamedTuple


class Source(NamedTuple):
    """A public dataset.

    Attributes
    ----------
    name : str
        As in the label maps.
    title, page, licence, citation : str
    layout : str
        What a folder of it looks like.
    """

    name: str
    title: str
    page: str
    licence: str
    citation: str
    layout: str

    @property
    def description(self) -> str:
        """All of it as text."""
        return f"{self.title}\nSource: {self.page}\nLicence: {self.licence}\nPlease cite: {self.citation}"


SOURCES = {
    source.name: source
    for source in (
        Source(
            "acevedo-20", "Acevedo-20: peripheral blood cells, Hospital Clinic of Barcelona (CellaVision DM96)",
            "https://data.mendeley.com/datasets/snkd93bnjr/1", "CC BY 4.0",
            "Acevedo et al., A dataset of microscopic peripheral blood cell images for development of automatic "
            "recognition systems, Data in Brief 30, 2020, doi:10.1016/j.dib.2020.105474",
            "images named by prefix, such as neutrophil/SNE_1234.jpg",
        ),
        Source(
            "matek-19", "Matek-19: AML-Cytomorphology_LMU, leukocytes of leukaemia patients and controls (Munich)",
            "https://www.cancerimagingarchive.net/collection/aml-cytomorphology_lmu/", "CC BY 3.0",
            "Matek et al., Human-level recognition of blast cells in acute myeloid leukaemia with convolutional neural "
            "networks, Nature Machine Intelligence 1, 2019; data: doi:10.7937/tcia.2019.36f5o9ld",
            "a folder per code, such as NGS/NGS_0001.tiff, and optionally annotations.dat",
        ),
        Source(
            "mll23", "MLL23: peripheral blood cells, Munich Leukemia Laboratory",
            "https://doi.org/10.1038/s41597-025-06223-x", "see the data's page",
            "Shetab Boushehri et al., A large expert-annotated single-cell peripheral blood dataset for hematological "
            "disease diagnostics, Scientific Data 12, 2025, doi:10.1038/s41597-025-06223-x",
            "a folder per class, such as neutrophil_segmented/image.tif",
        ),
        Source(
            "bccd", "BCCD: blood cell images, four to five leukocyte types",
            "https://github.com/Shenggan/BCCD_Dataset", "MIT",
            "Shenggan, BCCD Dataset, 2017; cropped and sorted by type at "
            "https://www.kaggle.com/datasets/paultimothymooney/blood-cells",
            "a folder per class, such as TRAIN/EOSINOPHIL/_0_207.jpeg",
        ),
        Source(
            "raabin-wbc", "Raabin-WBC: cropped, double-labelled leukocytes of several laboratories in Iran",
            "https://raabindata.com/free-data/", "see the data's page",
            "Kouzehkanan et al., A large dataset of white blood cells containing cell locations and types, along with "
            "segmented nuclei and cytoplasm, Scientific Reports 12, 2022, doi:10.1038/s41598-021-04426-x",
            "a folder per class, such as Train/Basophil/image.jpg",
        ),
        Source(
            "lisc", "LISC: leukocyte images for segmentation and classification (Tehran)",
            "http://users.cecs.anu.edu.au/~hrezatofighi/Data/Leukocyte%20Data.htm", "see the data's page",
            "Rezatofighi and Soltanian-Zadeh, Automatic recognition of five types of white blood cells in peripheral "
            "blood, Computerized Medical Imaging and Graphics 35, 2011, doi:10.1016/j.compmedimag.2011.01.003",
            "a folder per class, such as Main Dataset/eosi/1.bmp",
        ),
        Source(
            "zheng-18", "Zheng-18: two sets of leukocytes with masks (Jiangxi Tecom; CellaVision blog)",
            "https://github.com/zxaoyou/segmentation_WBC", "see the data's page",
            "Zheng et al., Fast and robust segmentation of white blood cell images by self-supervised learning, Micron "
            "107, 2018, doi:10.1016/j.micron.2018.01.010",
            "'Dataset 1/001.bmp' with '001.png' as mask, and 'Class Labels of Dataset 1.csv'; the same of 2",
        ),
        Source(
            "bloodmnist", "BloodMNIST: Acevedo-20 in eight classes, cropped and scaled down. It is no new laboratory",
            "https://zenodo.org/records/10519652", "CC BY 4.0",
            "Yang et al., MedMNIST v2, Scientific Data 10, 2023, doi:10.1038/s41597-022-01721-8; and Acevedo-20's",
            "bloodmnist_224.npz",
        ),
    )
}  # fmt: skip
