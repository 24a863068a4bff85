import json
import math

import pytest
import torch

from t2f_dist.evaluation.agreement import UNNAMED, agreement, chance, compare, labels, mean, unnamed
from t2f_dist.portraits.attributes import ABSENT, ATTRIBUTES, portrait
from t2f_dist.portraits.captions import captions, named

PEOPLE = [portrait(9, index) for index in range(600)]
NAMED = [named(captions(person, 9, 1)[0]) for person in PEOPLE]
TRUTH = {name: torch.tensor([person.labels[name] for person in PEOPLE]) for name in ATTRIBUTES}


def test_portraits_agree_with_their_own_captions_and_their_opposites_never():
    assert agreement(TRUTH, labels(NAMED)) == dict.fromkeys(ATTRIBUTES, 1.0)
    other = {name: (label + 1) % len(ATTRIBUTES[name]) for name, label in TRUTH.items()}
    assert agreement(other, labels(NAMED)) == dict.fromkeys(ATTRIBUTES, 0.0)


def test_only_captions_that_name_an_attribute_count():
    read = {name: torch.zeros(4, dtype=torch.long) for name in ATTRIBUTES}
    read["sex"] = torch.tensor([0, 0, 1, 1])
    shares = agreement(read, labels([{"sex": "man"}, {"sex": "woman"}, {}, {"sex": "woman"}]))
    assert shares["sex"] == pytest.approx(2 / 3)
    assert all(math.isnan(share) for name, share in shares.items() if name != "sex")
    assert mean(shares) == pytest.approx(2 / 3)


def test_a_named_hair_colour_disagrees_with_a_bald_head():
    read = {name: torch.zeros(1, dtype=torch.long) for name in ATTRIBUTES} | {"hair_colour": torch.tensor([ABSENT])}
    shares = {
        colour: agreement(read, labels([{"hair_colour": colour}]))["hair_colour"]
        for colour in ATTRIBUTES["hair_colour"]
    }
    assert set(shares.values()) == {0.0}


def test_chance_is_the_agreement_of_independent_labels():
    shares = chance(TRUTH, labels(NAMED), num_shuffles=200)
    for name in ATTRIBUTES:
        wanted = labels(NAMED)[name]
        wanted = wanted[wanted != UNNAMED]
        pairs = (TRUTH[name][:, None] == wanted[None]).double().mean().item()  # every image with every caption
        assert shares[name] == pytest.approx(pairs, abs=0.01)
    assert 0.3 < mean(shares) < 0.4
    assert shares == chance(TRUTH, labels(NAMED), num_shuffles=200)
    assert shares != chance(TRUTH, labels(NAMED), num_shuffles=200, seed=1)


def test_what_no_caption_names_is_counted_by_the_portrait_itself():
    others = unnamed(TRUTH, NAMED)
    for name in ATTRIBUTES:
        for said, own, counted in zip(NAMED, TRUTH[name].tolist(), others[name].tolist(), strict=True):
            assert counted == (UNNAMED if name in said or own == ABSENT else own)
    assert set(agreement(TRUTH, others).values()) == {1.0}
    silent = unnamed(TRUTH, [{}] * 600)
    bald = TRUTH["hair_colour"] == ABSENT
    assert bald.any()
    assert ((silent["hair_colour"] == UNNAMED) == bald).all()
    assert all(torch.equal(silent[name], TRUTH[name]) for name in ATTRIBUTES if name != "hair_colour")


def test_table_for_people_and_for_json():
    deaf = {name: label.roll(1) for name, label in TRUTH.items()}
    table = compare(deaf, TRUTH, NAMED)
    assert table.mean.real == 1.0
    assert abs(table.mean.generated - table.mean.chance) < 0.04
    assert abs(table.mean.unnamed - table.mean.unnamed_chance) < 0.08
    assert table.rows["beard"].num_named == sum("beard" in one for one in NAMED) < 300
    for name, row in table.rows.items():
        assert row.num_named + row.num_unnamed == 600 - (name == "hair_colour") * _bald_unnamed()
    lines = table.format().splitlines()
    assert [line.split()[0] for line in lines] == ["agreement", *(n.split("_")[0] for n in ATTRIBUTES), "mean"]
    skin = table.rows["skin"]
    shares = [f"{share:.3f}" for share in (skin.generated, skin.chance, skin.real)]
    others = [f"{skin.unnamed:.3f}", f"{skin.unnamed_chance:.3f}", str(skin.num_unnamed)]
    assert lines[2].split()[1:] == [*shares, str(skin.num_named), *others]
    content = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert content["attributes"]["sex"]["num_named"] == table.rows["sex"].num_named
    assert content["mean"]["unnamed"] == table.mean.unnamed


def test_without_captions_everything_is_unnamed():
    half = {name: torch.where(torch.arange(600) < 300, label, label.roll(1)) for name, label in TRUTH.items()}
    table = compare(half, TRUTH, [{}] * 600)
    assert table.to_dict()["mean"]["chance"] is None
    assert table.format().splitlines()[1].split()[1:5] == ["-", "-", "-", "0"]
    assert table.rows["sex"].num_unnamed == 600
    for row in table.rows.values():
        assert row.unnamed == pytest.approx(0.5 + row.unnamed_chance / 2, abs=0.05)
    assert table.rows["glasses"].unnamed_chance == pytest.approx(0.5, abs=0.01)


def _bald_unnamed() -> int:
    bald = (TRUTH["hair_colour"] == ABSENT).tolist()
    return sum(one_bald and "hair_colour" not in one for one_bald, one in zip(bald, NAMED, strict=True))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="hair_colour = 'green'"):
        labels([{"hair_colour": "green"}])
    with pytest.raises(ValueError, match="for 2 samples"):
        agreement(TRUTH, labels([{}, {}]))
    with pytest.raises(ValueError, match="not read: background"):
        agreement({name: TRUTH[name] for name in list(ATTRIBUTES)[1:]}, labels(NAMED))
    with pytest.raises(ValueError, match="num_shuffles"):
        chance(TRUTH, labels(NAMED), num_shuffles=0)
