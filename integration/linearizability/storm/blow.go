package storm

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Blow is one failure, and its end.
type Blow struct {
	// At is when it strikes, since the beginning of the burst.
	At time.Duration
	// Kind is one of the kinds' names.
	Kind string
	// Target is a host or what the kind takes instead: a, b, w, or a role: primary, standby, witness; a link, as in primary-standby or, for one direction,
	// primary>standby; all; data, which are both data nodes. Empty for kinds that need none.
	Target string
	// For is how long it lasts. 0: it is not undone, or there is nothing to undo.
	For time.Duration
}

// Burst is what happens between an armed cluster and the next.
type Burst []Blow

func seconds(d time.Duration) string { return fmt.Sprintf("%.2fs", d.Seconds()) }

func (b Blow) String() string {
	s := "+" + seconds(b.At) + " " + b.Kind
	if b.Target != "" {
		s += " " + b.Target
	}
	if b.For != 0 {
		s += " for " + seconds(b.For)
	}
	return s
}

func (b Burst) String() string {
	var out []string
	for _, blow := range b {
		out = append(out, blow.String())
	}
	return strings.Join(out, "; ")
}

// ErrPlan is wrapped by the errors of Parse.
var ErrPlan = errors.New("not a plan")

// Parse reads a plan. Empty lines and what follows a # are left out.
func Parse(text string) ([]Burst, error) {
	var out []Burst
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		var burst Burst
		for _, part := range strings.Split(line, ";") {
			b, err := parseBlow(strings.Fields(part))
			if err != nil {
				return nil, fmt.Errorf("%w: %q: %w", ErrPlan, strings.TrimSpace(part), err)
			}
			burst = append(burst, b)
		}
		out = append(out, burst)
	}
	return out, nil
}

// parseBlow reads "+1.2s KIND [TARGET] [for 3s]".
func parseBlow(words []string) (Blow, error) {
	var b Blow
	var err error
	if n := len(words); n >= 4 && words[n-2] == "for" {
		if b.For, err = time.ParseDuration(words[n-1]); err != nil {
			return b, err
		}
		words = words[:n-2]
	}
	if len(words) < 2 || len(words) > 3 || !strings.HasPrefix(words[0], "+") {
		return b, errors.New("a blow is +TIME KIND [TARGET] [for TIME]")
	}
	if b.At, err = time.ParseDuration(words[0][1:]); err != nil {
		return b, err
	}
	if b.Kind = words[1]; kindOf(b.Kind) == nil {
		return b, fmt.Errorf("no kind of blow is called %q", b.Kind)
	}
	if len(words) == 3 {
		b.Target = words[2]
	}
	return b, nil
}
