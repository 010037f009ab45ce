"""Messages: placeholders, plurals, languages, and complete translations."""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import Environment, nodes

import foveate
from foveate.data.formats import FORMATS
from foveate.data.issues import IssueLog
from foveate.errors import DataError, UnknownName
from foveate.messages import Message, languages, message_from, translations, translator

SOURCE = Path(foveate.__file__).parent
OTHERS = languages()[1:]
BUILT = {"messages.py", "types.py"}  # where messages are built from other ids


# --- one message


def test_a_noun_agrees_with_its_number():
    text = "{n:class|classes} in {where}"
    assert str(Message("test.n", text, n=1, where="a")) == "1 class in a"
    assert str(Message("test.n", text, n=2000, where="a")) == "2,000 classes in a"


def test_messages_nest_and_come_back_from_json():
    inner = Message("test.inner", "{n:image|images}", n=3)
    outer = Message("test.outer", "of these, {what}", what=inner)
    assert str(outer) == "of these, 3 images"
    assert message_from(outer.row()) == outer
    assert str(message_from(outer.row())) == str(outer)


def test_an_untranslated_message_is_english_and_an_unknown_language_is_refused():
    assert Message("test.none", "as it is").in_language("zh") == "as it is"
    assert translator("zh")("test.none", "{n} left", n=1) == "1 left"
    with pytest.raises(UnknownName):
        translations("xx")


def test_a_label_error_becomes_an_issue_in_every_language():
    log = IssueLog()
    log.add_error(DataError("no class has the index 7", where="a.txt", id="yolo_unknown_class"))
    (issue,) = log.issues()
    assert str(issue.title) == "no class has the index"
    assert issue.title.in_language("zh") == "没有此编号的类别"


# --- all messages of the source code


class MessageFinder(ast.NodeVisitor):
    """Collects ids and English texts of the messages in a file."""

    def __init__(self, file: str) -> None:
        self.file, self.messages = file, list[tuple[str, str]]()
        self.scopes: list[ast.AST] = []

    def visit_Module(self, node: ast.Module) -> None:
        self._visit_scope(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_scope(node)

    def _visit_scope(self, node: ast.AST) -> None:
        self.scopes.append(node)
        self.generic_visit(node)
        self.scopes.pop()

    def text(self, node: ast.expr) -> str:
        """Evaluate a literal, or a name by its last assignment before the call."""
        if isinstance(node, ast.Name):
            node = next(filter(None, (self._assigned(node, scope) for scope in self.scopes[::-1])))
        if isinstance(node, ast.BinOp):  # one of several texts with the same id
            return ""
        assert isinstance(node, ast.Constant), f"{self.file}:{node.lineno} is no literal"
        return node.value

    @staticmethod
    def _assigned(name: ast.Name, scope: ast.AST) -> ast.expr | None:
        assignments = [
            assignment
            for assignment in ast.walk(scope)
            if isinstance(assignment, ast.Assign) and assignment.lineno < name.lineno
            for target in assignment.targets
            if isinstance(target, ast.Name) and target.id == name.id
        ]
        return (
            max(assignments, key=lambda assignment: assignment.lineno).value
            if assignments
            else None
        )

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        arguments, keywords = node.args, {keyword.arg: keyword.value for keyword in node.keywords}
        id = keywords.get("id", arguments[0] if arguments else None)
        if self.file in BUILT or not isinstance(id, ast.Constant):
            return
        if name == "Message":
            self.messages.append((id.value, self.text(arguments[1])))
        elif name in ("remark", "_note"):
            self.messages.append((f"issues.{id.value}", self.text(arguments[1])))
        elif name == "IssueKind":
            self.messages.append((f"issues.{id.value}", self.text(arguments[1])))
            hint = keywords.get("hint") or (arguments[4] if len(arguments) > 4 else None)
            if hint is not None:
                self.messages.append((f"issues.{id.value}.hint", self.text(hint)))
        elif "id" in keywords:  # an error, which becomes an issue without its variable parts
            self.messages.append((f"issues.{id.value}", ""))
            if isinstance(keywords.get("hint"), ast.Constant):
                self.messages.append((f"issues.{id.value}.hint", ""))


def all_messages() -> Iterator[tuple[str, str]]:
    for file in sorted(SOURCE.rglob("*.py")):
        finder = MessageFinder(file.relative_to(SOURCE).as_posix())
        finder.visit(ast.parse(file.read_text(encoding="utf-8")))
        yield from finder.messages
    for file in sorted(SOURCE.rglob("*.j2")):
        for call in Environment().parse(file.read_text(encoding="utf-8")).find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == "t":
                yield call.args[0].as_const(), call.args[1].as_const()
    yield from ((f"format.{name}", FORMATS.get(name).summary) for name in FORMATS.names())


@pytest.fixture(scope="module")
def english() -> dict[str, set[str]]:
    """The English texts of each id; none for errors, whose variable parts are cut out."""
    texts: dict[str, set[str]] = {}
    for id, text in all_messages():
        if id:
            texts.setdefault(id, set()).update({text} - {""})
    return texts


def placeholders(text: str) -> set[str]:
    return {name.split(".")[0] for _, name, _, _ in string.Formatter().parse(text) if name}


def test_an_id_has_one_english_text(english):
    assert len(english) > 200
    assert {id: texts for id, texts in english.items() if len(texts) > 1} == {}


@pytest.mark.parametrize("language", OTHERS)
def test_every_message_is_translated_and_no_translation_is_left_over(english, language):
    known = translations(language)
    assert sorted(english.keys() - known.keys()) == []
    assert sorted(known.keys() - english.keys()) == []


@pytest.mark.parametrize("language", OTHERS)
def test_translations_keep_the_placeholders(english, language):
    for id, text in translations(language).items():
        for source_text in english.get(id, ()):
            assert placeholders(text) == placeholders(source_text), id


@pytest.mark.parametrize("language", OTHERS)
def test_ids_name_the_file_that_they_lie_in(language):
    for file in (SOURCE / "translations" / language).glob("*.json"):
        texts = ast.literal_eval(file.read_text(encoding="utf-8"))
        assert all(key.startswith(f"{file.stem}.") and text for key, text in texts.items())
