import pytest
import torch

from sfumato.diffusion.denoisers import Watched
from sfumato.diffusion.guidance import Contexts, Part, early_calls, guide, guide_edit, needs_negative

X = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0)).double()
SIGMA = torch.tensor([2.0, 0.5], dtype=torch.float64)


class Told:
    """A denoiser whose answer is a known function of x, sigma and its context; it records its batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, sigma, context):
        self.batches.append(tuple(context.shape))
        assert len(x) == len(sigma) == len(context)
        return x.cos() * sigma.view(-1, 1, 1, 1) + context.sum((1, 2)).view(-1, 1, 1, 1) * x

    def alone(self, context):
        return Told()(X, SIGMA, context.expand(2, -1, -1))


def context(seed, tokens=77, pictures=1):
    return torch.randn(pictures, tokens, 3, generator=torch.Generator().manual_seed(seed)).double()


def test_both_halves_go_through_the_network_in_one_batch():
    told, cond, uncond = Told(), context(1, pictures=2), context(2)
    out = guide(told, Contexts(positive=(Part(context=cond),), negative=uncond), 7.5)(X, SIGMA)
    assert told.batches == [(4, 77, 3)]
    c, u = told.alone(cond), told.alone(uncond)
    torch.testing.assert_close(out, u + 7.5 * (c - u))


def test_prompts_of_different_length_are_run_apart():
    told, cond, uncond = Told(), context(1, tokens=154), context(2)
    out = guide(told, Contexts(positive=(Part(context=cond),), negative=uncond), 3.0)(X, SIGMA)
    assert sorted(told.batches) == [(2, 77, 3), (2, 154, 3)]
    c, u = told.alone(cond), told.alone(uncond)
    torch.testing.assert_close(out, u + 3 * (c - u))


def test_guidance_one_calls_the_network_with_the_prompt_alone():
    told, cond = Told(), context(1)
    out = guide(told, Contexts(positive=(Part(context=cond),), negative=None), 1.0, rescale=0.7)(X, SIGMA)
    assert told.batches == [(2, 77, 3)]
    assert torch.equal(out, told.alone(cond))
    assert not needs_negative(1.0)


def test_guidance_zero_calls_the_network_with_the_negative_prompt_alone():
    told, uncond = Told(), context(2)
    out = guide(told, Contexts(positive=(Part(context=context(1)),), negative=uncond), 0.0)(X, SIGMA)
    assert told.batches == [(2, 77, 3)]
    assert torch.equal(out, told.alone(uncond))


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_parts_are_added_by_their_weights(scale):
    told, parts, uncond = Told(), [context(1), context(2), context(3)], context(4)
    weights = [1.2, 1.0, -0.5]
    both = zip(parts, weights, strict=True)
    contexts = Contexts(positive=tuple(Part(context=c, weight=w) for c, w in both), negative=uncond)
    assert needs_negative(scale, weights)
    out = guide(told, contexts, scale)(X, SIGMA)
    assert told.batches == [(8, 77, 3)]
    u = told.alone(uncond)
    expected = u + sum(w * scale * (told.alone(c) - u) for c, w in zip(parts, weights, strict=True))
    torch.testing.assert_close(out, expected)


def test_parts_whose_weights_sum_to_one_need_no_negative_at_guidance_one():
    told, parts = Told(), (context(1), context(2))
    contexts = Contexts(positive=tuple(Part(context=c, weight=0.5) for c in parts), negative=None)
    out = guide(told, contexts, 1.0)(X, SIGMA)
    assert told.batches == [(4, 77, 3)]
    torch.testing.assert_close(out, (told.alone(parts[0]) + told.alone(parts[1])) / 2)


def test_a_shorter_part_is_lengthened_by_its_last_vector():
    told, short, long, uncond = Told(), context(1), context(2, tokens=154), context(3)
    contexts = Contexts(positive=(Part(context=short), Part(context=long)), negative=uncond)
    out = guide(told, contexts, 2.0)(X, SIGMA)
    assert sorted(told.batches) == [(2, 77, 3), (4, 154, 3)]
    padded = torch.cat([short, short[:, -1:].expand(-1, 77, -1)], 1)
    u = told.alone(uncond)
    torch.testing.assert_close(out, u + 2 * (told.alone(padded) - u) + 2 * (told.alone(long) - u))


def test_each_call_is_told_what_its_number_asks_for():
    asked = []

    def contexts(call):
        asked.append(call)
        return Contexts(positive=(Part(context=context(call)),), negative=None)

    told = Told()
    denoise = guide(told, contexts, 1.0)
    for call in range(3):
        assert torch.equal(denoise(X, SIGMA), told.alone(context(call)))
    assert asked == [0, 1, 2]


def test_rescaled_guidance_has_the_spread_of_the_prompts_own_velocity():
    told, cond, uncond = Told(), context(1), context(2)
    contexts = Contexts(positive=(Part(context=cond),), negative=uncond)

    def velocity(clean):
        s = SIGMA.view(-1, 1, 1, 1)
        return (X / (s**2 + 1) - clean) * (s**2 + 1).sqrt() / s

    c, plain = velocity(told.alone(cond)), velocity(guide(told, contexts, 7.0)(X, SIGMA))
    full = velocity(guide(told, contexts, 7.0, rescale=1.0)(X, SIGMA))
    spread = {"dim": (1, 2, 3), "keepdim": True}
    torch.testing.assert_close(full.std(**spread), c.std(**spread))
    torch.testing.assert_close(full, plain * c.std(**spread) / plain.std(**spread))
    part = velocity(guide(told, contexts, 7.0, rescale=0.3)(X, SIGMA))
    torch.testing.assert_close(part, 0.3 * full + 0.7 * plain)


def test_equal_prompts_need_no_guidance():
    told, both = Told(), context(1)
    out = guide(told, Contexts(positive=(Part(context=both),), negative=both), 11.0)(X, SIGMA)
    assert torch.equal(out, told.alone(both))


def pair(scale=3.0, **options):
    told, cond, uncond = Told(), context(1), context(2)
    return told, guide(told, Contexts(positive=(Part(context=cond),), negative=uncond), scale, **options)


def test_below_a_sigma_every_second_call_leaves_the_negative_prompt_out():
    told, denoise = pair(negative_min_sigma=1.0)
    sigmas = [4.0, 2.0, 1.0, 0.9, 0.8, 0.7]
    out = [denoise(X, torch.full((2,), sigma).double()) for sigma in sigmas]
    assert [rows // 2 for rows, *_ in told.batches] == [2, 2, 2, 1, 2, 1]
    assert torch.equal(out[5], Told()(X, torch.full((2,), 0.7).double(), context(1).expand(2, -1, -1)))


@pytest.mark.parametrize(
    ("share", "calls", "early"), [(0, 20, 0), (0.1, 20, 3), (0.5, 20, 11), (1, 20, 20), (0.01, 20, 1)]
)
def test_the_first_calls_leave_the_negative_prompt_out(share, calls, early):
    assert early_calls(share, calls) == early
    told, denoise = pair(skip_early=early_calls(share, calls))
    for _ in range(calls):
        denoise(X, SIGMA)
    assert [rows // 2 for rows, *_ in told.batches] == [1] * early + [2] * (calls - early)


def test_where_the_negative_prompt_is_left_out_a_parts_weight_counts_only_beside_the_first():
    told, parts = Told(), (context(1), context(2))
    contexts = Contexts(
        positive=(Part(context=parts[0], weight=0.3), Part(context=parts[1], weight=0.5)), negative=context(3)
    )
    out = guide(told, contexts, 7.0, skip_early=1)(X, SIGMA)
    assert told.batches == [(4, 77, 3)]
    first, second = (told.alone(part) for part in parts)
    torch.testing.assert_close(out, first + 0.5 * (second - first))


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_negative_prompts_own_estimate_is_kept_for_samplers_that_use_it(scale):
    told, denoise = pair(scale, keep_uncond=True)
    watched = Watched(lambda x, sigma: denoise(x, sigma), denoise)
    assert watched.uncond is None
    watched(X, SIGMA)
    assert told.batches == [(4, 77, 3)]
    assert torch.equal(watched.uncond, told.alone(context(2)))
    assert Watched(denoise).uncond is None


class Shown(Told):
    """As `Told`, but shown a picture too."""

    def __call__(self, x, sigma, context, image):
        return super().__call__(x, sigma, context) + image.sum((1, 2, 3)).view(-1, 1, 1, 1)

    def alone(self, context, image):
        return Shown()(X, SIGMA, context.expand(2, -1, -1), image.expand(2, -1, -1, -1))


@pytest.mark.parametrize(
    ("scale", "image_scale", "rows"),
    [(7.5, 1.5, 3), (7.5, 1.0, 2), (1.5, 1.5, 2), (1.0, 1.0, 1), (0.0, 1.5, 2), (0.0, 0.0, 1), (1.0, 0.0, 3)],
)
def test_an_edit_runs_what_its_sum_needs_in_one_batch(scale, image_scale, rows):
    shown, cond, negative = Shown(), context(1), context(2)
    image = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(3)).double()
    told = Contexts(positive=(Part(context=cond),), negative=negative)
    denoise = guide_edit(shown, told, image, scale, image_scale)
    out = denoise(X, SIGMA)
    assert shown.batches == [(2 * rows, 77, 3)]
    c, i = shown.alone(cond, image), shown.alone(negative, image)
    u = shown.alone(negative, torch.zeros_like(image))
    torch.testing.assert_close(out, u + scale * (c - i) + image_scale * (i - u))


def test_an_edit_without_guidance_needs_no_negative_prompt():
    shown, cond, image = Shown(), context(1), torch.ones(1, 4, 5, 5).double()
    out = guide_edit(shown, Contexts(positive=(Part(context=cond),), negative=None), image, 1, 1)(X, SIGMA)
    torch.testing.assert_close(out, shown.alone(cond, image))


def test_parts_of_an_edit_are_weighted():
    shown, one, two, negative = Shown(), context(1), context(2, tokens=154), context(3)
    image = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(3)).double()
    parts = (Part(context=one, weight=0.7), Part(context=two, weight=-0.2))
    out = guide_edit(shown, Contexts(positive=parts, negative=negative), image, 3.0, 1.5)(X, SIGMA)
    long = torch.cat([one, one[:, -1:].expand(-1, 77, -1)], 1)
    c, d, i = shown.alone(long, image), shown.alone(two, image), shown.alone(negative, image)
    u = shown.alone(negative, torch.zeros_like(image))
    torch.testing.assert_close(out, u + 3 * (0.7 * (c - i) - 0.2 * (d - i)) + 1.5 * (i - u))
