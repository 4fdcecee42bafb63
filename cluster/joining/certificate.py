"""The join endpoint's self-signed certificate: trusted by its fingerprint, which travels in the join code."""

import contextlib
import datetime
import hashlib
import ssl
from pathlib import Path

from cluster.errors import ClusterError
from cluster.joining.join_code import FINGERPRINT_BYTES
from cluster.node.head import state_folder
from cluster.trust.token import write_private
from vr_core.small_files import read_text


def certificate_file() -> Path:
    """Where the endpoint's key and certificate are kept, mode 600."""
    return state_folder() / "join.pem"


def ensure_certificate(path: Path) -> bytes:
    """Make a key and a certificate in `path` unless they are there, and return the certificate's fingerprint.

    Raises:
        ClusterError: the file that is there holds no certificate.
    """
    if not path.exists():
        with contextlib.suppress(FileExistsError):  # the endpoint and `vr cluster head` may both be the first
            write_private(path, _self_signed(), replace=False)
    try:
        return fingerprint(ssl.PEM_cert_to_DER_cert(_certificate_part(read_text(path))))
    except (OSError, ValueError) as error:
        raise ClusterError(f"{path}: no certificate ({error}); delete it, then `vr cluster head` again") from None


def fingerprint(der: bytes) -> bytes:
    """What a join code says of the certificate `der`."""
    return hashlib.sha256(der).digest()[:FINGERPRINT_BYTES]


def server_context(path: Path) -> ssl.SSLContext:
    """TLS 1.3 with the key and certificate in `path`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(path)
    return context


def client_context() -> ssl.SSLContext:
    """TLS 1.3 that accepts any certificate: whoever uses it must compare the fingerprint before saying anything."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _certificate_part(pem: str) -> str:
    start = pem.find("-----BEGIN CERTIFICATE-----")
    return pem[max(start, 0) :]


def _self_signed() -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vr cluster")])
    # Nobody checks the dates: codes end after half an hour, and `vr cluster rotate` makes a new certificate.
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (private + certificate.public_bytes(serialization.Encoding.PEM)).decode("ascii")
