package ownership

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// nobody is a user that owns nothing.
const nobody = 65534

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root gives files away")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func uidOf(t *testing.T, path string) uint32 {
	t.Helper()
	fi, err := os.Lstat(path)
	must(t, err)
	return fi.Sys().(*syscall.Stat_t).Uid
}

// dataDir is a service's, in which root has made something.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	must(t, os.MkdirAll(filepath.Join(dir, "raft"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "raft", "raft.db"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "secrets.json"), nil, 0o600))
	return dir
}

func TestWhatRootMakesGoesToTheOwnerOfTheDirectory(t *testing.T) {
	needRoot(t)
	dir := dataDir(t)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, nil, 0o600))
	must(t, os.Symlink(outside, filepath.Join(dir, "link")))
	must(t, os.WriteFile(filepath.Join(dir, "others"), nil, 0o600))
	must(t, os.Chown(filepath.Join(dir, "others"), 1, 1))

	must(t, Give(dir)) // it is root's
	if uid := uidOf(t, filepath.Join(dir, "secrets.json")); uid != 0 {
		t.Errorf("given to %d, and the directory is root's", uid)
	}
	must(t, os.Chown(dir, nobody, nobody))
	must(t, Give(dir))
	for path, want := range map[string]uint32{"raft": nobody, "raft/raft.db": nobody, "secrets.json": nobody, "link": nobody, "others": 1} {
		if uid := uidOf(t, filepath.Join(dir, path)); uid != want {
			t.Errorf("%s belongs to %d, want %d", path, uid, want)
		}
	}
	if uid := uidOf(t, outside); uid != 0 {
		t.Errorf("a link was followed: what it names belongs to %d", uid)
	}
}

func TestFileWithAnotherNameIsNotGivenAway(t *testing.T) {
	needRoot(t)
	dir := dataDir(t)
	precious := filepath.Join(filepath.Dir(dir), "precious")
	must(t, os.WriteFile(precious, nil, 0o600))
	must(t, os.Link(precious, filepath.Join(dir, "trap")))
	must(t, os.Chown(dir, nobody, nobody))
	if err := Give(dir); err == nil {
		t.Error("given away")
	}
	if uid := uidOf(t, precious); uid != 0 {
		t.Errorf("it belongs to %d now", uid)
	}
}

func TestDirectoryThatIsNotThereIsNobodys(t *testing.T) {
	must(t, Give(filepath.Join(t.TempDir(), "none")))
	must(t, Share("/none/at/all", filepath.Join(t.TempDir(), "none")))
}

func TestConfigurationStaysRootsAndIsReadable(t *testing.T) {
	needRoot(t)
	dir := dataDir(t)
	must(t, os.Chown(dir, nobody, nobody))
	config := filepath.Join(t.TempDir(), "kineshim.yaml")
	must(t, os.WriteFile(config, nil, 0o600))
	must(t, Share(config, dir))
	fi, err := os.Stat(config)
	must(t, err)
	st := fi.Sys().(*syscall.Stat_t)
	if st.Uid != 0 || st.Gid != nobody || fi.Mode().Perm() != 0o640 {
		t.Errorf("it belongs to %d:%d, mode %v", st.Uid, st.Gid, fi.Mode())
	}
}

// A group that somebody has given the file to keeps it.
func TestConfigurationOfAnotherGroupStaysAsItIs(t *testing.T) {
	needRoot(t)
	dir := dataDir(t)
	must(t, os.Chown(dir, nobody, nobody))
	for name, c := range map[string]struct {
		gid, want int
		mode      os.FileMode
	}{"another group's": {12345, 12345, 0o640}, "root's group": {0, nobody, 0o640}, "everybody's": {0, 0, 0o644}, "another group's that may not": {12345, nobody, 0o600}} {
		config := filepath.Join(t.TempDir(), "kineshim.yaml")
		must(t, os.WriteFile(config, nil, c.mode))
		must(t, os.Chown(config, 0, c.gid))
		must(t, Share(config, dir))
		fi, err := os.Stat(config)
		must(t, err)
		if got := int(fi.Sys().(*syscall.Stat_t).Gid); got != c.want {
			t.Errorf("%s: group %d, want %d", name, got, c.want)
		}
	}
}

func TestServiceUserIsTheOwnerOfTheDataDirectory(t *testing.T) {
	dir := t.TempDir()
	if got, err := User(dir); got != "" || err != nil {
		t.Errorf("a directory of our own: %q, %v", got, err)
	}
	if got, err := User(filepath.Join(dir, "none")); got != "" || err != nil {
		t.Errorf("no directory: %q, %v", got, err)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	if err := os.Chown(dir, 1, 1); err != nil { // daemon, on each Debian
		t.Fatal(err)
	}
	if got, err := User(dir); got != "daemon" || err != nil {
		t.Errorf("daemon's directory: %q, %v", got, err)
	}
}
