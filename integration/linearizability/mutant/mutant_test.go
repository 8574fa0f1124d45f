package mutant

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// sources is the directory of kineshim's module.
const sources = "../../.."

func TestMutantsFitTheSources(t *testing.T) {
	for _, m := range All {
		if _, err := m.Overlay(sources, t.TempDir()); err != nil {
			t.Error(err)
		}
	}
}

func TestAnOverlayReplacesOnlyTheText(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "p"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "p", "a.go")
	if err := os.WriteFile(file, []byte("one two three\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := Mutant{Name: "m", Replacements: []Replacement{{"p/a.go", "two", "2"}, {"p/a.go", "three", "3"}}}
	path, err := m.Overlay(root, dir)
	if err != nil {
		t.Fatal(err)
	}
	var overlay struct{ Replace map[string]string }
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &overlay); err != nil {
		t.Fatal(err)
	}
	changed, err := os.ReadFile(overlay.Replace[file])
	if err != nil || string(changed) != "one 2 3\n" {
		t.Errorf("%q, %v", changed, err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "one two three\n" {
		t.Errorf("the source itself is %q, %v", b, err)
	}
}

func TestATextThatIsNotThereOnceIsAnError(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "a.go"), []byte("one two two\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, old := range []string{"two", "three"} {
		m := Mutant{Name: "m", Replacements: []Replacement{{"a.go", old, "x"}}}
		_, err := m.Overlay(root, t.TempDir())
		if missing := (MissingError{}); !errors.As(err, &missing) {
			t.Errorf("%s: %v", old, err)
		}
	}
}
