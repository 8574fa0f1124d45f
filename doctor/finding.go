package doctor

import (
	"fmt"
	"strings"
)

// Level is how much a finding matters.
type Level int

// The levels, see the package.
const (
	OK Level = iota
	Warn
	Fail
)

// String is the level as operators see it.
func (l Level) String() string { return [...]string{"ok", "warn", "FAIL"}[l] }

// MarshalText is the level as programs see it: ok, warn or fail.
func (l Level) MarshalText() ([]byte, error) { return []byte(strings.ToLower(l.String())), nil }

// Finding is one line of the report.
type Finding struct {
	// Check names the family.
	Check string `json:"check"`
	Level Level  `json:"level"`
	// Found is what was found, with numbers; it may have several lines.
	Found string `json:"found"`
	// Do is what to do about it, one thing or command a line; nil for what is OK.
	Do []string `json:"do,omitempty"`
}

// Report is what the checks have found, in the order of the checks.
type Report struct {
	// Node and Cluster are who this is, Other is the other data node; "" as far as that is not known.
	Node    string `json:"node"`
	Cluster string `json:"cluster"`
	Other   string `json:"other"`
	// Failed: some finding is a Fail.
	Failed   bool      `json:"failed"`
	Findings []Finding `json:"findings"`
}

// Count is how many findings have the level.
func (r *Report) Count(l Level) int {
	n := 0
	for _, f := range r.Findings {
		if f.Level == l {
			n++
		}
	}
	return n
}

// notes collects the findings of one check.
type notes struct {
	check string
	all   []Finding
}

func (n *notes) ok(format string, args ...any) { n.add(OK, "", format, args...) }

// warn and fail take what to do about it first, a thing a line.
func (n *notes) warn(do, format string, args ...any) { n.add(Warn, do, format, args...) }
func (n *notes) fail(do, format string, args ...any) { n.add(Fail, do, format, args...) }

func (n *notes) add(l Level, do, format string, args ...any) {
	f := Finding{Check: n.check, Level: l, Found: fmt.Sprintf(format, args...)}
	if do != "" {
		f.Do = strings.Split(do, "\n")
	}
	n.all = append(n.all, f)
}
