package storm

import (
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// blowsAtMost bounds the blows of a burst.
	blowsAtMost = 4
	// atOnce is how many failures may overlap: what the failure matrix promises to survive without losing anything.
	atOnce = 2
	// gapAtMost is the longest time between the beginnings of two blows, unless the second has to wait for an earlier one to end.
	gapAtMost = 3500 * time.Millisecond
	// shortest is how long a blow lasts that is undone at all.
	shortest = 200 * time.Millisecond
	// beyondWitness is longer than the silence after which the witness is no longer counted on, 10 s; one in longOneOf blows that may last long is drawn to last so.
	beyondWitness = 11 * time.Second
	longOneOf     = 20
)

// Draw is the n-th burst of a seed, from 1. It depends on nothing else.
func Draw(seed, n uint64) Burst {
	rnd := rand.New(rand.NewPCG(seed, n))
	var out Burst
	at := time.Duration(0)
	for range []int{1, 1, 2, 2, 2, 3, 3, 3, blowsAtMost}[rnd.IntN(9)] {
		b := drawBlow(rnd)
		b.At = at
		for under(out, b.At) >= atOnce {
			b.At = nextEnd(out, b.At)
		}
		out = append(out, b)
		at = b.At + fraction(rnd, gapAtMost)
	}
	return out
}

// fraction is any time up to the longest; half of them are in the first quarter, so that one failure often meets the beginning of another.
func fraction(rnd *rand.Rand, longest time.Duration) time.Duration {
	f := rnd.Float64()
	return hundredth(time.Duration(f * f * float64(longest)))
}

// hundredth gives what a plan's text can say.
func hundredth(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

func drawBlow(rnd *rand.Rand) Blow {
	total := 0
	for i := range kinds {
		total += kinds[i].weight
	}
	left := rnd.IntN(total)
	i := slices.IndexFunc(kinds, func(k kind) bool {
		left -= k.weight
		return left < 0
	})
	k := &kinds[i]
	b := Blow{Kind: k.name}
	if len(k.targets) > 0 {
		b.Target = k.targets[rnd.IntN(len(k.targets))]
	}
	if k.longest > 0 {
		b.For = shortest + hundredth(time.Duration(rnd.Float64()*float64(k.longest-shortest)))
		if k.longest >= longer && rnd.IntN(longOneOf) == 0 {
			b.For = beyondWitness + fraction(rnd, short)
		}
	}
	return b
}

// under is how many blows last at an instant.
func under(burst Burst, at time.Duration) int {
	n := 0
	for _, b := range burst {
		if b.At <= at && at < b.At+b.For {
			n++
		}
	}
	return n
}

// nextEnd is when the next of the blows that last at an instant ends.
func nextEnd(burst Burst, at time.Duration) time.Duration {
	next := time.Duration(-1)
	for _, b := range burst {
		if end := b.At + b.For; end > at && (next < 0 || end < next) {
			next = end
		}
	}
	return next
}
