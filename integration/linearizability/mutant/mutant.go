// Package mutant makes builds of kineshim with bugs made on purpose, from replacements of exact texts in its sources. The sources stay as they are:
// the go command is told to read other files in their place.
package mutant

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Replacement replaces a text in a file of the sources. The text must be there exactly once.
type Replacement struct {
	File, Old, New string
}

// Mutant is a bug.
type Mutant struct {
	Name string
	// Bug says what is wrong then.
	Bug          string
	Replacements []Replacement
}

// MissingError says that a replacement does not fit the sources any more: the table is to be adjusted.
type MissingError struct {
	Mutant, File, Old string
	Times             int // that the text is there
}

func (e MissingError) Error() string {
	return fmt.Sprintf("mutant %s: %s has %d times, not once:\n%s", e.Mutant, e.File, e.Times, e.Old)
}

// Overlay writes the changed files into dir, and the file that go build -overlay takes, whose path it returns. root is the directory of the sources.
func (m Mutant) Overlay(root, dir string) (string, error) {
	replace := map[string]string{}
	for _, r := range m.Replacements {
		from := filepath.Join(root, r.File)
		current := from
		if before := replace[from]; before != "" {
			current = before
		}
		b, err := os.ReadFile(current)
		if err != nil {
			return "", fmt.Errorf("mutant %s: %w", m.Name, err)
		}
		if n := strings.Count(string(b), r.Old); n != 1 {
			return "", MissingError{m.Name, r.File, r.Old, n}
		}
		to := filepath.Join(dir, strings.ReplaceAll(r.File, "/", "_"))
		if err := os.WriteFile(to, []byte(strings.Replace(string(b), r.Old, r.New, 1)), 0o644); err != nil {
			return "", fmt.Errorf("mutant %s: %w", m.Name, err)
		}
		replace[from] = to
	}
	b, err := json.Marshal(struct{ Replace map[string]string }{replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return "", fmt.Errorf("mutant %s: %w", m.Name, err)
	}
	return path, nil
}
