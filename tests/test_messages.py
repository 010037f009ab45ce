"""Messages: placeholders, plurals, languages, and that every translation fits its English text."""

from __future__ import annotations

import pytest

from foveate.errors import UnknownName
from foveate.messages import Message, languages, message_from, translations, translator


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


@pytest.mark.parametrize("language", languages()[1:])
def test_ids_name_the_file_that_they_lie_in(language):
    assert all("." in key and text for key, text in translations(language).items())
