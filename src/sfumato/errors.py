"""Everything Sfumato refuses to do, as one small tree.

    SfumatoError                what was given, what was expected, what to do
    ├── RequestError            a generation request that makes no sense
    │   └── WorkLimitError      more work than one job may be
    ├── PromptError             a prompt beyond the stated limits
    ├── WeightsError            a weights file that cannot be trusted or does not fit
    │   ├── UnsafeFileError     it would have to execute something to be read
    │   └── UnknownModelError   no known family has these keys
    ├── ModelNotFoundError      no such checkpoint, VAE or folder
    ├── DownloadError           a pull that did not end in a complete, verified file
    ├── OutOfMemoryError        predicted or met; carries the numbers
    ├── OutputError             a picture or file that could not be written or read
    ├── TrainingError           data, configuration or arithmetic that stops a training run
    ├── QueueFullError          as many jobs wait as may; says when to come back
    │   └── ClosingError        the server is about to stop; says when to come back
    ├── JobNotFoundError        no such job, or somebody else's
    ├── PictureNotFoundError    no such picture in the gallery, or somebody else's
    ├── ConflictError           a key that stands for something else already, or a folder in use
    ├── QuotaError              an owner's files take as much of the disk as they may
    └── StorageError            the database or data folder is damaged, locked or out of reach

Every message is one line for the user. Broken invariants of our own are assertions, not errors.
"""


class SfumatoError(Exception):
    """Base of every error meant for the user; `str(error)` is the one line shown."""


class RequestError(SfumatoError, ValueError):
    """A generation request is out of range or contradictory."""


class WorkLimitError(RequestError):
    """A request asks for more work than one job may be."""


class PromptError(SfumatoError, ValueError):
    """A prompt is beyond the stated limits."""


class WeightsError(SfumatoError, ValueError):
    """A weights file is truncated, inconsistent or does not fit the network."""


class UnsafeFileError(WeightsError):
    """A file would have to execute code to be read."""


class UnknownModelError(WeightsError):
    """The tensors in a file belong to no known model family."""


class ModelNotFoundError(SfumatoError, LookupError):
    """A named checkpoint, VAE or folder does not exist."""


class DownloadError(SfumatoError, OSError):
    """A download did not end in a complete, verified file."""


class OutOfMemoryError(SfumatoError, MemoryError):
    """A request needs more memory than there is."""


class OutputError(SfumatoError, OSError):
    """A picture or file cannot be written or read."""


class TrainingError(SfumatoError, RuntimeError):
    """Data, configuration or arithmetic stops a training run."""


class QueueFullError(SfumatoError):
    """The queue holds as many jobs as it may."""

    def __init__(self, message: str, retry_after: float) -> None:
        """Say in how many seconds it is worth coming back."""
        super().__init__(message)
        self.retry_after = retry_after


class ClosingError(QueueFullError):
    """The server is about to stop and takes nothing more in."""


class JobNotFoundError(SfumatoError, LookupError):
    """There is no such job, or it belongs to somebody else."""


class PictureNotFoundError(SfumatoError, LookupError):
    """There is no such picture, or it belongs to somebody else."""


class ConflictError(SfumatoError, ValueError):
    """Something else has that name, key or place already."""


class QuotaError(SfumatoError):
    """An owner's files take as much of the disk as they may."""


class StorageError(SfumatoError, OSError):
    """The database or the data folder cannot be used."""
