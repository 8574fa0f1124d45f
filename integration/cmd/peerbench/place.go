package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"kineshim/integration/cluster"
)

// tmpfsMagic is the file system type of memory, where fsync costs nothing (statfs(2)).
const tmpfsMagic = 0x01021994

// makePlace makes the directory that holds all data: on a disk, with a path short enough for sockets, and open to PostgreSQL's OS user.
func makePlace(parent string) (string, error) {
	parents := []string{"/tmp", "/var/tmp"}
	if parent != "" {
		parents = []string{parent}
	}
	for _, parent := range parents {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(parent, &fs); err != nil || fs.Type == tmpfsMagic {
			continue
		}
		dir, err := os.MkdirTemp(parent, "ks-peers-")
		if err != nil {
			return "", err
		}
		return dir, os.Chmod(dir, 0o755)
	}
	return "", fmt.Errorf("none of %s is a directory on a disk: name one with --dir", strings.Join(parents, ", "))
}

// freeBytes is what the disk below dir has left.
func freeBytes(dir string) (int64, error) {
	var fs syscall.Statfs_t
	err := syscall.Statfs(dir, &fs)
	return int64(fs.Bavail) * fs.Bsize, err
}

// freePorts finds ports of 127.0.0.1. All are held until the last is found, so that none is given twice.
func freePorts(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}

// binaries are the paths of what is run.
type binaries struct {
	cluster          cluster.Binaries
	etcd, kineserver string
}

// buildBinaries takes each binary that the systems need from the directory that cluster.BinDirEnv names if it is there, or else builds it
// into dir. It must run inside the module.
func buildBinaries(ctx context.Context, dir string, systems []string) (binaries, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "kineshim").Output()
	if err != nil {
		return binaries{}, fmt.Errorf("build: run this inside the module kineshim: %w", err)
	}
	root, built := strings.TrimSpace(string(out)), os.Getenv(cluster.BinDirEnv)
	var b binaries
	for _, w := range []struct {
		name, dir, pkg string
		path           *string
		of             []string // systems
	}{
		{"kineshim", root, "./cmd/kineshim", &b.cluster.Kineshim, []string{kineshim}},
		{"raftwitness", root, "./cmd/raftwitness", &b.cluster.Raftwitness, []string{kineshim}},
		{"kineserver", root, "./integration/cmd/kineserver", &b.kineserver, []string{kineSync}},
		{"etcd", filepath.Join(root, "integration/peers"), "go.etcd.io/etcd/server/v3", &b.etcd, []string{etcd1, etcd3}},
	} {
		if !slices.ContainsFunc(w.of, func(name string) bool { return slices.Contains(systems, name) }) {
			continue
		}
		if path := filepath.Join(built, w.name); built != "" && exists(path) {
			*w.path = path
			continue
		}
		*w.path = filepath.Join(dir, w.name)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", *w.path, w.pkg)
		cmd.Dir, cmd.Env = w.dir, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return b, fmt.Errorf("build %s: %w\n%s", w.name, err, out)
		}
	}
	return b, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}
