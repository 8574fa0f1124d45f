// Package quiet decides whether something is worth a line in the log that others can bring about as often as they like: it is said once for each
// source and reason, and then, while it goes on, now and then with how often it has happened. It has no clock of its own, and its memory is bounded however many
// sources and reasons there are.
package quiet

import (
	"hash/fnv"
	"sync"
	"time"
)

const (
	// maxSources bounds the sources that are remembered, some 200 bytes each: a whole network of 254 hosts fits, and nobody reads more
	// than that in a minute.
	maxSources = 256
	// maxReasons bounds the reasons of one source that are told apart. A reason may hold what a stranger has sent, and so never be the same twice.
	maxReasons = 4
	// Often is how often what goes on is said, for what strangers do.
	Often = time.Minute
	// Once never says it again, until Forget.
	Once = time.Duration(1<<63 - 1)
)

// Others is the source of what comes from sources that are too many to be remembered.
const Others = "others"

// Repeats remembers what was said. It may be used by many goroutines.
type Repeats struct {
	every time.Duration

	mu      sync.Mutex // guards the fields below
	sources map[string][]said
	// crowd is for sources beyond maxSources.
	crowd said
	// swept is when old sources were last forgotten.
	swept time.Time
}

// said is one reason of a source.
type said struct {
	// reason is a hash. Of two reasons with one hash the second is left out, which costs a line in the log.
	reason uint64
	at     time.Time
	// unsaid is how often it was left out since.
	unsaid int
}

// New returns a memory in which everything is news. What goes on is said again after every, which is Often or Once as a rule.
func New(every time.Duration) *Repeats {
	return &Repeats{every: every, sources: map[string][]said{}}
}

// Line is what to say.
type Line struct {
	// Say: a line is due. Source names whom it is about: as given, or Others.
	Say    bool
	Source string
	// Unsaid is how often it has happened since the last line about it, without this time.
	Unsaid int
}

// Happened takes in that something has happened now because of the source, and says whether to say so.
func (r *Repeats) Happened(now time.Time, source, reason string) Line {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.sources[source]
	if !ok && len(r.sources) >= maxSources && !r.sweep(now) {
		return r.crowd.again(now, r.every, Others)
	}
	h := hash(reason)
	for i := range known {
		if known[i].reason == h {
			return known[i].again(now, r.every, source)
		}
	}
	if len(known) == maxReasons { // the last one stands for all others
		return known[maxReasons-1].again(now, r.every, source)
	}
	r.sources[source] = append(known, said{reason: h, at: now})
	return Line{Say: true, Source: source}
}

// Forget has everything of the source be news again: it is over.
func (r *Repeats) Forget(source string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sources, source)
}

// again says a reason again when its time has come.
func (s *said) again(now time.Time, every time.Duration, source string) Line {
	if !s.at.IsZero() && now.Sub(s.at) < every {
		s.unsaid++
		return Line{}
	}
	line := Line{Say: true, Source: source, Unsaid: s.unsaid}
	s.at, s.unsaid = now, 0
	return line
}

// sweep forgets the sources of which nothing was said for so long that it would be said again. It reports whether there is room then. It looks at all of
// them, so it does that rarely.
func (r *Repeats) sweep(now time.Time) bool {
	if !r.swept.IsZero() && now.Sub(r.swept) < r.every/8 {
		return false
	}
	r.swept = now
	for source, all := range r.sources {
		if old(now, r.every, all) {
			delete(r.sources, source)
		}
	}
	return len(r.sources) < maxSources
}

func old(now time.Time, every time.Duration, all []said) bool {
	for _, s := range all {
		if now.Sub(s.at) < every {
			return false
		}
	}
	return true
}

func hash(reason string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(reason)) // never fails
	return h.Sum64()
}
