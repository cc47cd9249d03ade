"""Who one is on S3, where obstore does not look by itself: the file that Amazon's own tools keep.

What is found goes to obstore and nowhere else.
"""

import configparser
import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path

KNOWN_TO_OBSTORE = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
FILE = "~/.aws/credentials"
KEYS = {
    "access_key_id": "aws_access_key_id",
    "secret_access_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
}
METADATA = ("169.254.169.254", 80)  # where machines in Amazon's cloud hear who they are
ANSWERS_S = 1.0


def found_here() -> Mapping[str, str]:
    """In obstore's words; empty where it finds them itself. Raises: PermissionError where there are none."""
    if any(os.environ.get(name) for name in KNOWN_TO_OBSTORE):
        return {}
    profile = os.environ.get("AWS_PROFILE") or "default"
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or FILE).expanduser()
    told = configparser.ConfigParser(interpolation=None)
    try:
        told.read(file)
        section = told[profile]
        return {key: section[name] for key, name in KEYS.items() if name in section or key != "session_token"}
    except (configparser.Error, KeyError, UnicodeError):
        pass
    if _is_in_the_cloud():
        return {}
    raise PermissionError(
        errno.EACCES,
        f"no credentials are found: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or [{profile}] in "
        f"{file}",
    )


def _is_in_the_cloud() -> bool:
    """Asked before obstore is, which would wait for minutes where there is no such thing."""
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    try:
        with socket.create_connection(METADATA, ANSWERS_S):
            return True
    except OSError:
        return False
