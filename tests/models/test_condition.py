"""Caption, voice and identity side by side: what a sample lacks, and what is padded, is never heard."""

import pytest
import torch
from torch import Tensor

from t2f_dist.config.condition import Condition
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.condition import ConditionEncoder, concatenate
from t2f_dist.models.facts import Facts

FACTS = Facts(num_words=9, embedding_size=5, sample_rate_hz=1000, num_identities=4)
LSTM = {"kind": "lstm", "embedding_size": 6, "hidden_size": 4}
STORED = {"kind": "stored"}
LOG_MEL = {"kind": "log_mel", "window_seconds": 0.05, "num_mels": 6, "channels": [5], "hidden_size": 3}
WAVEFORM = {"kind": "waveform", "seconds": 0.3, "channels": [2, 3], "hidden_sizes": [8], "size": 6}
KINDS = {
    "caption, voice, identity": {"caption": LSTM, "speech": LOG_MEL, "identity": {}},
    "stored, waveform": {"caption": STORED, "speech": WAVEFORM},
    "voice": {"speech": LOG_MEL},
    "identity": {"identity": {}},
}
SIZES = {"lstm": 8, "stored": 5, "log_mel": 6, "waveform": 6, "one_hot": 4}
LIKE = torch.zeros(4, 3, dtype=torch.float64)
Inputs = dict[str, tuple[Tensor, Tensor]]


def encoder(kinds: dict, facts: Facts = FACTS) -> ConditionEncoder:
    torch.manual_seed(0)
    built = ConditionEncoder(Condition.model_validate(kinds), facts, BatchNorm(group_size=2)).double()
    with torch.no_grad():
        for number, missing in enumerate(built.missing.values()):
            missing.copy_(torch.arange(len(missing)) + 10 * (number + 1))
    return built


def inputs(kinds: dict, seed: int = 0, long: int = 1) -> Inputs:
    """Four samples; `long` times as much of what has a length. Every second lacks the first modality, and so on."""
    random = torch.Generator().manual_seed(seed)
    found: Inputs = {}
    present = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 1]])
    for (name, section), has in zip(kinds.items(), present):
        if section.get("kind") == "lstm":
            values = torch.randint(1, 9, (4, 3 * long), generator=random)
            lengths = torch.tensor([3, 1, 2, 3]) * long
        elif section.get("kind") == "stored":
            values, lengths = torch.randn(4, 1, 5, generator=random, dtype=torch.float64), torch.ones(4).long()
        elif name == "speech":
            values = torch.randint(-9000, 9000, (4, 250 * long), generator=random, dtype=torch.int16)
            lengths = torch.tensor([250, 90, 120, 200]) * long
        else:
            values, lengths = torch.randint(0, 4, (4, 1), generator=random), torch.ones(4).long()
        found[name] = (values, lengths * has)
    return found


def scribbled(given: Inputs, seed: int = 9) -> Inputs:
    """Other finite values wherever no sample reaches."""
    changed: Inputs = {}
    for name, (values, lengths) in given.items():
        other = inputs({name: LSTM if values.dtype == torch.int64 else LOG_MEL}, seed)[name][0]
        noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed)).mul(100)
        random = noise.to(values.dtype) if values.dtype != torch.int64 else other.flatten()[0].expand(values.shape) % 4
        past = torch.arange(values.shape[1]) >= lengths[:, None]
        past = past.reshape(*past.shape, *[1] * (values.dim() - 2))
        changed[name] = (torch.where(past, random, values), lengths)
    return changed


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_sizes_add_up_and_what_is_missing_is_exactly_its_learned_vector(kinds: dict):
    built = encoder(kinds).eval()
    sizes = [SIZES[section.get("kind", "one_hot")] for section in kinds.values()]
    given = inputs(kinds)
    for each in (given, scribbled(given)):
        embedding = built(each, LIKE)
        assert embedding.shape == (4, sum(sizes)) == (4, built.output_size)
        for (name, (_, lengths)), part in zip(each.items(), embedding.split(sizes, dim=1)):
            expected = built.missing[name].expand(4, -1)
            absent = lengths == 0
            assert absent.any()
            assert torch.equal(part[absent], expected[absent])
            assert not torch.isclose(part[~absent], expected[~absent]).all(dim=1).any()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_whatever_stands_in_the_padding_changes_nothing(kinds: dict, training: bool):
    built, given = encoder(kinds).train(training), inputs(kinds)
    changed = scribbled(given)
    assert any(not torch.equal(given[name][0], changed[name][0]) for name in given)
    torch.testing.assert_close(built(changed, LIKE), built(given, LIKE), rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_one_pass_over_two_batches_is_two_passes(kinds: dict, training: bool):
    """Padded to the longer of the two; groups of batch normalisation stay whole."""
    built = encoder(kinds).train(training)
    first, second = inputs(kinds), inputs(kinds, seed=3, long=2)
    apart = torch.cat([built(first, LIKE), built(second, LIKE)])
    for one, other in ((first, second), (second, first)):
        joined = concatenate(one, other)
        assert all(len(values) == len(lengths) == 8 for values, lengths in joined.values())
        found = built(joined, torch.cat([LIKE, LIKE]))
        expected = apart if one is first else torch.cat(apart.chunk(2)[::-1])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_modalities_do_not_hear_each_other():
    kinds = KINDS["caption, voice, identity"]
    built, given = encoder(kinds), inputs(kinds)
    whole = built(given, LIKE)
    alone = [encoder({name: kinds[name]}) for name in kinds]
    for single in alone:
        single.load_state_dict({name: built.state_dict()[name] for name in single.state_dict()})
    torch.testing.assert_close(whole, torch.cat([single(given, LIKE) for single in alone], dim=1))


def test_without_a_modality_the_embedding_has_no_width():
    built = encoder({})
    assert built.output_size == 0
    assert not list(built.parameters())
    for like in (LIKE, LIKE.float()[:2]):
        embedding = built({}, like)
        assert embedding.shape == (len(like), 0)
        assert embedding.dtype == like.dtype


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_gradients_reach_what_was_used(kinds: dict):
    built, given = encoder(kinds), inputs(kinds)
    (built(given, LIKE) * torch.arange(1, 5)[:, None]).sum().backward()
    for name, missing in built.missing.items():
        assert missing.grad.abs().min() > 0, name
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())
    built.zero_grad()
    everyone = {name: (values, lengths.clamp(min=1)) for name, (values, lengths) in given.items()}
    built(everyone, LIKE).sum().backward()
    assert all(not missing.grad.any() for missing in built.missing.values()), "nobody lacked it"


def test_a_voice_of_whole_numbers_is_that_voice_in_shares_of_the_largest():
    built, (values, lengths) = encoder(KINDS["voice"]), inputs(KINDS["voice"])["speech"]
    floats = values.double() / 32768
    assert torch.equal(built({"speech": (values, lengths)}, LIKE), built({"speech": (floats, lengths)}, LIKE))


def test_it_stays_in_its_own_precision_under_autocast():
    kinds = KINDS["caption, voice, identity"]
    built = encoder(kinds).float()
    plain = built(inputs(kinds), LIKE.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(built(inputs(kinds), LIKE.float()), plain)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"caption": LSTM}, "captions, and the shards have none"),
        ({"caption": STORED}, "caption embeddings, and the shards have none"),
        ({"speech": LOG_MEL}, "voices, and the shards have none"),
        ({"speech": WAVEFORM}, "voices, and the shards have none"),
        ({"identity": {}}, "identities, and the shards have none"),
    ],
)
def test_what_the_shards_lack_is_refused(kinds: dict, message: str):
    with pytest.raises(ValueError, match=message):
        encoder(kinds, Facts())
