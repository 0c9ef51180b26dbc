"""The command line's options that mean a field of the `Settings`, as tables."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """One option: what it sets, how it is written, what the help says."""

    field: str  # "part.field" of a Request, or a field of the Settings
    spellings: tuple[str, ...]
    help: str

    @property
    def name(self) -> str:
        """Of the parameter that carries it."""
        return self.field.replace(".", "_")


SETTING_FLAGS: tuple[Flag, ...] = (
    Flag("outputs", ("--output", "-o"), "Folder for the pictures."),
    Flag("models", ("--models",), "Folder of checkpoints."),
    Flag("styles", ("--styles",), "CSV of styles: name,prompt,negative_prompt; * in its name for several."),
    Flag("wildcards", ("--wildcards",), "Folder of texts for __names__ in dynamic prompts."),
    Flag("device", ("--device",), "auto, cpu, cuda, cuda:1, mps."),
    Flag("dtype", ("--dtype",), "auto, float32, bfloat16, float16."),
    Flag("threads", ("--threads",), "CPU threads."),
)
QUEUE_FLAGS: tuple[Flag, ...] = (
    Flag("data", ("--data",), "Folder of the queue and of the pictures that jobs start from."),
    Flag("checkpoint", ("--checkpoint",), "Checkpoint of requests that name none."),
    Flag(
        "model_memory",
        ("--model-memory",),
        "Bytes of checkpoints kept loaded; unset = what the memory holds.",
    ),
    Flag("database_url", ("--database-url",), "postgresql://… for many machines; unset = a file."),
    Flag("store", ("--store",), "Folder or s3://… that all machines reach; unset = this machine's folders."),
    Flag("patience", ("--patience",), "Seconds after which a silent worker's jobs are taken over."),
    Flag("attempts", ("--attempts",), "Ends of the process under a job before it is made in one of its own."),
    Flag("step_limit", ("--step-limit",), "Seconds that a step may take before its job is given up."),
    Flag("quota", ("--quota",), "Bytes of the disk that one user's pictures may take."),
)
SERVER_FLAGS: tuple[Flag, ...] = (
    *QUEUE_FLAGS,
    Flag("queue_limit", ("--queue-limit",), "Jobs that may wait."),
    Flag("job_limit", ("--job-limit",), "Megapixels times steps that one job may ask for."),
    Flag("login", ("--login",), "A token or password even from this machine."),
    Flag("api_auth", ("--api-auth",), "user:password,user2:password2; better in SFUMATO_API_AUTH."),
    Flag("token_file", ("--token-file",), "Of the server's token; unset = in the data folder."),
    Flag("hosts", ("--hosts",), "Further names of the server, a proxy's among them: example.org,…"),
    Flag("cors", ("--cors-allow-origins",), "Pages elsewhere that may call: https://example.org,…"),
    Flag("subpath", ("--subpath",), "Where a proxy shows the server: /sfumato."),
    Flag("tls_cert", ("--tls-certfile",), "Certificate chain, PEM."),
    Flag("tls_key", ("--tls-keyfile",), "Its key, PEM."),
    Flag("max_body", ("--max-body",), "Bytes of one request."),
    Flag("rate_limit", ("--rate-limit",), "Requests a second of one client."),
    Flag("max_connections", ("--max-connections",), "Requests under way."),
    Flag("fetch_urls", ("--fetch-urls",), "Let requests name pictures by public addresses."),
)
NUMBERS = (
    "threads",
    "model_memory",
    "queue_limit",
    "quota",
    "attempts",
    "max_body",
    "rate_limit",
    "max_connections",
)
SWITCHES = ("login", "fetch_urls")
