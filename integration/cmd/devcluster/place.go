package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// longestDir is the longest path below which the nodes' sockets still have names that the kernel accepts (107 bytes).
const longestDir = 80

// settle makes the directory, or makes it a link to one below /var/tmp where PostgreSQL's OS user could not reach it or its path is too
// long for sockets. It returns the real directory.
func settle(dir string, out io.Writer) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	info, err := os.Lstat(dir)
	switch {
	case err == nil && info.Mode()&fs.ModeSymlink != 0:
		return settleLinked(dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	why := unfit(dir)
	if why == "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		return dir, os.Chmod(dir, 0o755) // whatever the umask
	}
	if err == nil {
		if err := os.Remove(dir); err != nil {
			return "", fmt.Errorf("%s cannot hold the cluster: %s; and it is not empty: %w", dir, why, err)
		}
	}
	target := fmt.Sprintf("/var/tmp/kineshim-run-%d", os.Getuid())
	fmt.Fprintf(out, "%s: so the data are in %s, and %s is a link to it.\n", why, target, dir)
	if err := os.Symlink(target, dir); err != nil {
		return "", err
	}
	return settleLinked(dir)
}

// settleLinked makes the directory that a link points to. In a directory open to all, one that somebody else has made is not used.
func settleLinked(link string) (string, error) {
	target, err := os.Readlink(link)
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(link), target)
	}
	if err := os.Mkdir(target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(target)
	if err != nil {
		return "", err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || int(st.Uid) != os.Getuid() {
		return "", fmt.Errorf("%s is not a directory of this user: remove it", target)
	}
	return target, os.Chmod(target, 0o755)
}

// unfit says why the directory cannot hold the cluster; empty if it can. As root, PostgreSQL runs as another user, who has to come through all
// directories above.
func unfit(dir string) string {
	if len(dir) > longestDir {
		return fmt.Sprintf("%s is too long a path for sockets", dir)
	}
	if os.Getuid() != 0 {
		return ""
	}
	for d := filepath.Dir(dir); ; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err == nil && info.Mode().Perm()&0o001 == 0 {
			return fmt.Sprintf("PostgreSQL does not run as root, and its user cannot come through %s", d)
		}
		if d == "/" {
			return ""
		}
	}
}

// pidFile holds our PID while we run, and the lock that keeps a second devcluster out.
const pidFile = "devcluster.pid"

func lock(place string) (unlock func(), err error) {
	path := filepath.Join(place, pidFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := io.ReadAll(f)
		f.Close()
		return nil, fmt.Errorf("the cluster in %s runs already, under process %s", place, strings.TrimSpace(string(pid)))
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := fmt.Fprintf(f, "%d\n", os.Getpid()); err != nil {
		f.Close()
		return nil, err
	}
	return func() {
		os.Remove(path)
		f.Close()
	}, nil
}

// findPostgres looks for PostgreSQL's server where the nodes will.
func findPostgres() error {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	if p, err := exec.LookPath("postgres"); err == nil {
		dirs = append(dirs, filepath.Dir(p))
	}
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, "postgres")); err == nil {
			return nil
		}
	}
	return errors.New("PostgreSQL's server is not installed: `make run` installs it, or run scripts/setup.sh")
}
