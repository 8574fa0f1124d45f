package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeBinDir holds programs that only say which version they are of.
func fakeBinDir(t *testing.T, major int, programs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range programs {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %d.3 (Debian)'\n", name, major)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindProgramsSaysWhichAreThereAndOfWhatVersion(t *testing.T) {
	data := t.TempDir()
	whole := fakeBinDir(t, 16, needed...)
	got, err := FindPrograms(t.Context(), whole, data)
	if d := cmp.Diff(Programs{Dir: whole, Major: 16}, got); d != "" || err != nil {
		t.Error(d, err)
	}
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	half := fakeBinDir(t, 18, "postgres", "initdb", "pg_rewind")
	if err := os.Chmod(filepath.Join(half, "pg_rewind"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err = FindPrograms(t.Context(), half, data)
	if d := cmp.Diff(Programs{Dir: half, Major: 18, DataMajor: 15, Missing: []string{"pg_basebackup", "pg_rewind", "pg_controldata"}}, got); d != "" || err != nil {
		t.Error(d, err)
	}
	if got, err = FindPrograms(t.Context(), t.TempDir(), data); err == nil || got.DataMajor != 15 {
		t.Errorf("without a server: %+v, %v", got, err)
	}
}

func TestVersionsOutsideOfThoseKnownAreNotSupported(t *testing.T) {
	for major, want := range map[int]bool{13: false, 14: true, 18: true, 19: false} {
		if Supported(major) != want {
			t.Errorf("%d: %t", major, !want)
		}
	}
}
