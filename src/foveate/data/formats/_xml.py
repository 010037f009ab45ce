"""XML of annotations, parsed without entities."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from foveate.errors import DataError
from foveate.utils.paths import printable


def parse_xml(file: Path) -> ElementTree.Element:
    """Parse an XML file.

    A DOCTYPE, the only way to define entities, is refused, and nothing outside the file is read.

    Raises:
        DataError: It is not valid XML, or has a DOCTYPE.
    """
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = lambda *_: _refuse_doctype(file)
    try:
        parser.Parse(file.read_bytes(), True)
        return builder.close()
    except (expat.ExpatError, OSError, ValueError, LookupError) as error:
        raise DataError(
            "the annotation is not valid XML",
            where=printable(file),
            why=str(error),
            hint="repair it, or remove it together with its image",
            id="invalid_xml",
        ) from None


def _refuse_doctype(file: Path) -> None:
    raise DataError(
        "the annotation has a DOCTYPE",
        where=printable(file),
        why="it could define entities that read other files or expand without end",
        hint="remove the line; annotations need none",
        id="voc_doctype",
    )
