package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDirectoryThatPostgresCanReachIsTaken(t *testing.T) {
	base, err := os.MkdirTemp("/tmp", "ks-place-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, "run")
	for range 2 { // made, then found
		got, err := settle(dir, io.Discard)
		if err != nil || got != dir {
			t.Fatalf("settled in %q, %v", got, err)
		}
	}
}

func TestUnreachableOrLongPathIsUnfit(t *testing.T) {
	if why := unfit("/tmp/" + strings.Repeat("x", longestDir)); why == "" {
		t.Error("a path too long for sockets is fit")
	}
	if os.Getuid() != 0 {
		t.Skip("only root runs PostgreSQL as somebody else")
	}
	base := t.TempDir()
	if err := os.Chmod(base, 0o700); err != nil {
		t.Fatal(err)
	}
	if why := unfit(filepath.Join(base, "run")); why == "" {
		t.Error("a directory below one of mode 0700 is fit")
	}
}

func TestLinkIsFollowedToADirectoryOfOurOwn(t *testing.T) {
	base := t.TempDir()
	target, link := filepath.Join(base, "target"), filepath.Join(base, "run")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	got, err := settle(link, io.Discard)
	if err != nil || got != target {
		t.Fatalf("settled in %q, %v", got, err)
	}
	if os.Getuid() != 0 {
		return
	}
	if err := os.Chown(target, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := settle(link, io.Discard); err == nil {
		t.Error("a directory of another user was taken")
	}
}

func TestSecondDevclusterIsKeptOut(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("a second lock: %v", err)
	}
	unlock()
	again, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
