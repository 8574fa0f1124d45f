package site

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// goneWithin bounds the wait for killed processes. Only one that is stuck in the kernel takes longer.
const goneWithin = 10 * time.Second

// Sweep removes what labs have left whose process is gone. It returns the names of what it removed.
func Sweep() ([]string, error) {
	var swept []string
	var errs []error
	for _, name := range sites() {
		o, _, ok := ownerOf(name)
		if !ok || o.alive() {
			continue
		}
		if err := remove(name); err != nil {
			errs = append(errs, fmt.Errorf("sweep %s: %w", name, err))
			continue
		}
		swept = append(swept, name)
	}
	return swept, errors.Join(errs...)
}

// sites are the names of all sites that have left a trace: a directory or a namespace.
func sites() []string {
	var out []string
	dirs, _ := filepath.Glob("/tmp/" + prefix + "-*") // the pattern is well formed
	for _, d := range dirs {
		out = append(out, filepath.Base(d))
	}
	entries, _ := os.ReadDir(namespaceDir) // none: nothing to sweep there
	for _, e := range entries {
		if i := strings.LastIndexByte(e.Name(), '-'); i > 0 && strings.HasPrefix(e.Name(), prefix+"-") {
			out = append(out, e.Name()[:i])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Traces are what is there of the sites of a process: namespaces, mounts, directories and processes. For tests.
func Traces(pid int) []string {
	var out []string
	for _, name := range sites() {
		if o, _, ok := ownerOf(name); ok && o.pid == pid {
			out = append(out, "site "+name)
			for _, p := range processesOf(name) {
				out = append(out, fmt.Sprintf("process %d of %s", p, name))
			}
			for _, m := range mountsOf(name) {
				out = append(out, "mount "+m)
			}
		}
	}
	return out
}

// remove removes a site by its name, whatever is left of it.
func remove(name string) error {
	if _, _, ok := ownerOf(name); !ok {
		return fmt.Errorf("%q is not the name of a site", name)
	}
	if err := kill(name); err != nil {
		return err
	}
	var errs []error
	for _, m := range mountsOf(name) {
		errs = append(errs, unmount(m))
	}
	for _, ns := range namespacesOf(name) {
		_, err := command("ip", "netns", "del", ns)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join("/tmp", name))
}

// kill kills all that runs in the site's namespaces or works in its directory, and waits until it is gone.
func kill(name string) error {
	deadline := time.Now().Add(goneWithin)
	for {
		left := processesOf(name)
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes survive a kill: %v", left)
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func namespacesOf(name string) []string {
	entries, _ := os.ReadDir(namespaceDir) // none: there are none
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), name+"-") {
			out = append(out, e.Name())
		}
	}
	return out
}

// mountsOf are the mounts at and below the site's directory, the deepest first.
func mountsOf(name string) []string {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil
	}
	var out []string
	dir := filepath.Join("/tmp", name)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && (f[1] == dir || strings.HasPrefix(f[1], dir+"/")) {
			out = append(out, f[1])
		}
	}
	slices.Reverse(out)
	return out
}

// processesOf are those in the site's namespaces, and those whose working directory is the site's. This process is none of them: its threads visit.
func processesOf(name string) []int {
	inodes := map[uint64]bool{}
	for _, ns := range namespacesOf(name) {
		if fi, err := os.Stat(filepath.Join(namespaceDir, ns)); err == nil {
			inodes[fi.Sys().(*syscall.Stat_t).Ino] = true
		}
	}
	dir := filepath.Join("/tmp", name)
	entries, _ := os.ReadDir("/proc")
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		ns, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			continue // gone, or a zombie
		}
		cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)) // a zombie has none
		if inodes[ns.Sys().(*syscall.Stat_t).Ino] || cwd == dir || strings.HasPrefix(cwd, dir+"/") {
			out = append(out, pid)
		}
	}
	return out
}
