package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCleanUpWithNothingLeft(t *testing.T) {
	path, dataDir := writeConfig(t, "a", "")
	if code, out := call("clean-up", "--config", path); code != 0 || out != "" {
		t.Errorf("before the node was ever started: exit %d, %s", code, out)
	}
	lock := filepath.Join(dataDir, "postgres", "lock") // a kineshim holds it while it runs
	if err := os.MkdirAll(filepath.Dir(lock), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(lock)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if code, out := call("clean-up", "--config", path); code != 0 || out != "" {
		t.Errorf("nothing is left: exit %d, %s", code, out)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if code, out := call("clean-up", "--config", path); code != 1 {
		t.Errorf("beside a kineshim: exit %d, %s", code, out)
	}
}
