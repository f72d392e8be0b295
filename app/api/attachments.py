"""A certificate as a file that a browser saves instead of showing it among our own pages."""

from fastapi import Response

from app.certificates.signatures import Format

MEDIA = {"pdf": "application/pdf", "html": "text/html; charset=utf-8"}


def attached(certificate: bytes, evidence_id: str, format: Format) -> Response:
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="certificate-{evidence_id[:36]}.{format}"',
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(certificate, media_type=MEDIA[format], headers=headers)
