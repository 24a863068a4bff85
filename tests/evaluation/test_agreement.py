import json
import math

import pytest
import torch

from t2f_dist.evaluation.agreement import UNNAMED, agreement, caption_agreement, chance, labels, mean
from t2f_dist.portraits.attributes import ABSENT, ATTRIBUTES, portrait
from t2f_dist.portraits.captions import captions, named

PEOPLE = [portrait(9, index) for index in range(600)]
NAMED = [named(captions(person, 9, 1)[0]) for person in PEOPLE]
TRUTH = {name: torch.tensor([person.labels[name] for person in PEOPLE]) for name in ATTRIBUTES}


def test_portraits_agree_with_their_own_captions_and_their_opposites_never():
    assert agreement(TRUTH, NAMED) == dict.fromkeys(ATTRIBUTES, 1.0)
    other = {name: (label + 1) % len(ATTRIBUTES[name]) for name, label in TRUTH.items()}
    assert agreement(other, NAMED) == dict.fromkeys(ATTRIBUTES, 0.0)


def test_only_captions_that_name_an_attribute_count():
    read = {name: torch.zeros(4, dtype=torch.long) for name in ATTRIBUTES}
    read["sex"] = torch.tensor([0, 0, 1, 1])
    shares = agreement(read, [{"sex": "man"}, {"sex": "woman"}, {}, {"sex": "woman"}])
    assert shares["sex"] == pytest.approx(2 / 3)
    assert all(math.isnan(share) for name, share in shares.items() if name != "sex")
    assert mean(shares) == pytest.approx(2 / 3)


def test_a_named_hair_colour_disagrees_with_a_bald_head():
    read = {name: torch.zeros(1, dtype=torch.long) for name in ATTRIBUTES} | {"hair_colour": torch.tensor([ABSENT])}
    shares = {colour: agreement(read, [{"hair_colour": colour}])["hair_colour"] for colour in ATTRIBUTES["hair_colour"]}
    assert set(shares.values()) == {0.0}


def test_chance_is_the_agreement_of_independent_labels():
    shares = chance(TRUTH, NAMED, num_shuffles=200)
    for name in ATTRIBUTES:
        wanted = labels(NAMED)[name]
        wanted = wanted[wanted != UNNAMED]
        pairs = (TRUTH[name][:, None] == wanted[None]).double().mean().item()  # every image with every caption
        assert shares[name] == pytest.approx(pairs, abs=0.01)
    assert 0.3 < mean(shares) < 0.4
    assert shares == chance(TRUTH, NAMED, num_shuffles=200)
    assert shares != chance(TRUTH, NAMED, num_shuffles=200, seed=1)


def test_table_for_people_and_for_json():
    deaf = {name: label.roll(1) for name, label in TRUTH.items()}
    table = caption_agreement(deaf, TRUTH, NAMED)
    assert table.mean.real == 1.0
    assert abs(table.mean.generated - table.mean.chance) < 0.04
    assert table.rows["beard"].num_named == sum("beard" in one for one in NAMED) < 300
    lines = table.format().splitlines()
    assert [line.split()[0] for line in lines] == ["caption", *(n.split("_")[0] for n in ATTRIBUTES), "mean"]
    assert f"{table.rows['skin'].chance:.3f}" in lines[2]
    content = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert content["attributes"]["sex"]["num_named"] == table.rows["sex"].num_named
    nothing = caption_agreement(deaf, TRUTH, [{}] * 600)
    assert nothing.to_dict()["mean"]["chance"] is None
    assert nothing.format().splitlines()[1].split()[1:4] == ["-"] * 3


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="hair_colour = 'green'"):
        labels([{"hair_colour": "green"}])
    with pytest.raises(ValueError, match="for 2 captions"):
        agreement(TRUTH, [{}, {}])
    with pytest.raises(ValueError, match="not read: background"):
        agreement({name: TRUTH[name] for name in list(ATTRIBUTES)[1:]}, NAMED)
    with pytest.raises(ValueError, match="num_shuffles"):
        chance(TRUTH, NAMED, num_shuffles=0)
