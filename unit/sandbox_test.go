package unit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhereAServiceMayWrite(t *testing.T) {
	packaged := Sandbox{User: "kineshim", StateDirectory: "kineshim", ProtectSystem: "strict"}
	edited := packaged
	edited.ReadWritePaths = "/mnt/other -/srv/kineshim"
	for _, c := range []struct {
		s    Sandbox
		dir  string
		want bool
	}{
		{packaged, "/var/lib/kineshim", true}, {packaged, "/var/lib/kineshim/data", true}, {packaged, "/var/lib/kineshim2", false}, {packaged, "/srv/kineshim", false},
		{edited, "/srv/kineshim", true}, {edited, "/srv", false}, {edited, "/mnt/other/x", true}, {Sandbox{User: "kineshim"}, "/srv/kineshim", true},
	} {
		if got := c.s.MayWrite(c.dir); got != c.want {
			t.Errorf("%+v, %s: %v", c.s, c.dir, got)
		}
	}
}

func TestUsersAreKnownByNumberToo(t *testing.T) {
	for name, want := range map[string]int{"": 0, "root": 0, "1000": 1000, "nobody-of-this-name": 0} {
		if got := uidOf(name); got != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
}

func TestADirectoryThatTheServiceCannotUseIsRefused(t *testing.T) {
	dir := t.TempDir()
	own := os.Geteuid()
	s := Sandbox{User: "kineshim", ProtectSystem: "strict", ReadWritePaths: dir}
	if err := s.refuse("kineshim.service", dir, own); err != nil {
		t.Errorf("its own: %v", err)
	}
	for name, c := range map[string]struct {
		dir  string
		uid  int
		want []string
	}{
		"another's": {dir, own + 1, []string{"install -d -m 0700 -o kineshim"}},
		"missing":   {filepath.Join(dir, "none"), own + 1, []string{"install -d"}},
		"outside":   {t.TempDir(), own, []string{"systemctl edit kineshim", "ReadWritePaths="}},
		"both":      {t.TempDir(), own + 1, []string{"install -d", "ReadWritePaths="}},
	} {
		err := s.refuse("kineshim.service", c.dir, c.uid)
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v; want %q", name, err, w)
			}
		}
	}
}
