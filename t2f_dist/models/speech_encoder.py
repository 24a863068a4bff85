"""Voice -> embedding: a log-mel spectrogram, convolutions and a recurrent layer, each to the voice's own end.

Shapes: N voices, T audio samples, M mel bands, F frames, C channels, E embedding.
"""

from __future__ import annotations

import warnings
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torchaudio.transforms import MelSpectrogram

from t2f_dist.config.condition import LogMel
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.facts import Facts

# Power below which a band is silent: what a hiss of -65 dB gives, which is more than the rounding of 16-bit audio.
FLOOR = 1e-4
# Standard deviation of the logarithm over the bands and frames of a voice, about.
LOG_SPREAD = 4.0
SLOPE = 0.2
# The mean over the outputs in (-1, 1) has a root mean square of some 0.4 to 0.6; this brings it to about unit size.
MEAN_GAIN = 2.0
MAX_WINDOW = 2**14  # audio samples; 85 ms at the highest rate that shards have, 192 kHz


class LogMelEncoder(nn.Module):
    """Log-mel frames, convolutions that halve them, a bidirectional GRU on packed sequences, the mean of its outputs.

    A frame never reaches past the end of a voice, and after each convolution what lies past it is zero again, which
    is also what a convolution sees past the edge of a voice alone. So the embedding does not depend on the padding,
    nor on what a voice is batched with. The mean that is taken off is one number a voice, its level: a mean for each
    band would take off the average spectrum as well, which tells one speaker from another. Runs in the dtype of its
    weights, outside any autocast, on the device of the waveform. It has no batch normalisation.

    Raises ValueError where the shards have no voices, where the hop is shorter than an audio sample, where the window
    has too few frequencies for the mel bands, and where it is longer than MAX_WINDOW.
    """

    def __init__(self, section: LogMel, facts: Facts, batch_norm: BatchNorm):
        super().__init__()
        if not facts.sample_rate_hz:
            raise ValueError(
                "condition.speech needs voices, and the shards have none: build them with `t2f-dist shard --speech`,"
                " or set condition.speech to null"
            )
        self.mel = _mel(section, facts.sample_rate_hz)
        widths = (section.num_mels, *section.channels)
        convs = [nn.Conv1d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)]
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, a=SLOPE)
        self.convs = nn.ModuleList(convs)
        self.gru = nn.GRU(widths[-1], section.hidden_size, batch_first=True, bidirectional=True)
        self.output_size = 2 * section.hidden_size

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """waveform [N, T] in [-1, 1], lengths int64 [N] in audio samples (0 to T, on any device) -> [N, E].

        What a row of length 0 gives is finite and of no meaning.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            x, num_frames = self._frames(waveform.to(next(self.gru.parameters()).dtype), lengths.cpu())
            for conv in self.convs:
                num_frames = (num_frames + 1) // 2
                x = F.leaky_relu(conv(x), SLOPE)
                x = x * _valid(num_frames, x)
            packed = pack_padded_sequence(x.transpose(1, 2), num_frames, batch_first=True, enforce_sorted=False)
            padded, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)  # zeros past each end
            return padded.sum(dim=1) / num_frames.to(padded)[:, None] * MEAN_GAIN

    def _frames(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The log-mel spectrogram [N, M, F], zero past each end, and the number of frames of each voice [N].

        Only whole windows count, so that none sees the padding; a voice shorter than a window is one frame.
        """
        window, hop = self.mel.win_length, self.mel.hop_length
        waveform = F.pad(waveform, (0, max(0, window - waveform.shape[1])))
        inside = torch.arange(waveform.shape[1], device=waveform.device) < lengths.to(waveform.device)[:, None]
        log_mel = (self.mel(waveform.where(inside, 0)) + FLOOR).log()
        num_frames = (lengths.clamp(min=window) - window) // hop + 1
        valid = _valid(num_frames, log_mel)
        level = (log_mel * valid).sum(dim=(1, 2)) / (num_frames.to(log_mel) * log_mel.shape[1])
        return (log_mel - level[:, None, None]) / LOG_SPREAD * valid, num_frames


def _valid(num_frames: Tensor, x: Tensor) -> Tensor:
    """[N, 1, F], of the dtype of x [N, C, F]: 1 in the first `num_frames` [N] of each row, 0 past them."""
    return (torch.arange(x.shape[2], device=x.device) < num_frames.to(x.device)[:, None]).to(x)[:, None]


def _mel(section: LogMel, sample_rate_hz: int) -> MelSpectrogram:
    window, hop = round(section.window_seconds * sample_rate_hz), round(section.hop_seconds * sample_rate_hz)
    if hop < 1:
        raise ValueError(
            f"condition.speech.hop_seconds {section.hop_seconds} is less than an audio sample at {sample_rate_hz} Hz:"
            f" raise it to {1 / sample_rate_hz:g} or more"
        )
    if window > MAX_WINDOW:
        raise ValueError(
            f"condition.speech.window_seconds {section.window_seconds} is {window} audio samples at {sample_rate_hz}"
            f" Hz: lower it to {MAX_WINDOW / sample_rate_hz:g} or less"
        )
    too_short = (
        f"condition.speech.window_seconds {section.window_seconds} holds {window} audio samples at {sample_rate_hz} Hz,"
        f" too few to tell {section.num_mels} mel bands apart: raise window_seconds or lower num_mels"
    )
    if window // 2 < section.num_mels:  # frequencies above 0
        raise ValueError(too_short)
    # On the CPU also where a snapshot is described without memory: the filters are looked at, and they are small.
    with warnings.catch_warnings(), torch.device("cpu"):
        warnings.simplefilter("ignore", UserWarning)  # of an empty band, which is refused below
        mel = MelSpectrogram(sample_rate_hz, n_fft=window, hop_length=hop, n_mels=section.num_mels, center=False)
    if not mel.mel_scale.get_buffer("fb").any(dim=0).all():
        raise ValueError(too_short)
    return mel
