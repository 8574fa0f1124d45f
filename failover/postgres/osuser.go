package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The versions this package is written for.
const (
	oldestMajor = 14
	newestMajor = 18
)

// osUser is who owns the files and runs PostgreSQL's programs.
type osUser struct {
	name     string
	uid, gid int
	// credential is nil when the programs run as the present user.
	credential *syscall.Credential
}

// lookupUser finds the named user; "" is "postgres" for root and the present user otherwise.
func lookupUser(name string) (osUser, error) {
	euid := os.Geteuid()
	if name == "" {
		if euid != 0 {
			return osUser{name: strconv.Itoa(euid), uid: euid, gid: os.Getegid()}, nil
		}
		name = "postgres"
	}
	u, err := user.Lookup(name)
	if err != nil {
		return osUser{}, fmt.Errorf("os user %q: %w", name, err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return osUser{}, fmt.Errorf("os user %q: %w", name, err)
	}
	o := osUser{name: name, uid: uid, gid: gid}
	switch {
	case uid == euid && uid != 0:
	case uid == 0:
		return osUser{}, fmt.Errorf("os user %q: PostgreSQL refuses to run as root", name)
	case euid != 0:
		return osUser{}, fmt.Errorf("os user %q: only root can run PostgreSQL as another user", name)
	default:
		groups, err := supplementary(u)
		if err != nil {
			return osUser{}, fmt.Errorf("os user %q: %w", name, err)
		}
		o.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: groups}
	}
	return o, nil
}

// supplementary lists the user's groups: ssl-cert's members, for one, must be able to read keys.
func supplementary(u *user.User) ([]uint32, error) {
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	var groups []uint32
	for _, id := range ids {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, err
		}
		groups = append(groups, uint32(n))
	}
	return groups, nil
}

// canTraverse reports, by an error that says what to do, the first directory on the way to dir that the user cannot enter.
func (o osUser) canTraverse(dir string) error {
	for ; dir != "/"; dir = filepath.Dir(dir) {
		fi, err := os.Stat(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			continue
		}
		mode := fi.Mode().Perm()
		switch {
		case int(st.Uid) == o.uid && mode&0o100 != 0:
		case int(st.Uid) != o.uid && o.inGroup(st.Gid) && mode&0o010 != 0:
		case int(st.Uid) != o.uid && !o.inGroup(st.Gid) && mode&0o001 != 0:
		default:
			return fmt.Errorf("os user %s cannot enter %s: chmod o+x %s, or use another data_dir", o.name, dir, dir)
		}
	}
	return nil
}

func (o osUser) inGroup(gid uint32) bool {
	return int(gid) == o.gid || o.credential != nil && slices.Contains(o.credential.Groups, gid)
}

// findBinDir returns the directory of PostgreSQL's programs: the one given, else the installed one that fits the data
// directory's version, else what pg_config says, else the newest installed.
func findBinDir(given, dataDir string) (string, error) {
	if given != "" {
		return given, hasPostgres(given)
	}
	if b, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION")); err == nil {
		dir := filepath.Join("/usr/lib/postgresql", strings.TrimSpace(string(b)), "bin")
		if hasPostgres(dir) == nil {
			return dir, nil
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		if dir := strings.TrimSpace(string(out)); hasPostgres(dir) == nil {
			return dir, nil
		}
	}
	for major := newestMajor; major >= oldestMajor; major-- {
		dir := fmt.Sprintf("/usr/lib/postgresql/%d/bin", major)
		if hasPostgres(dir) == nil {
			return dir, nil
		}
	}
	return "", errors.New("bin_dir: no PostgreSQL found by pg_config or in /usr/lib/postgresql: install it or set bin_dir")
}

func hasPostgres(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "postgres")); err != nil {
		return fmt.Errorf("bin_dir: %w", err)
	}
	return nil
}
