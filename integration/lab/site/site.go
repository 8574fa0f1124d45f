package site

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Switch is the host that is the network between the others.
const Switch = "sw"

// namespaceDir is where ip(8) keeps named namespaces.
const namespaceDir = "/run/netns"

// Site is a switch with hosts on it, and a directory for all that they keep. Its methods may be called from several goroutines.
type Site struct {
	owner owner
	dir   string
	hosts []string

	mu    sync.Mutex // guards what follows
	cuts  map[string]Cut
	disks map[string]*Disk
}

// New makes a site. The order of the hosts gives their addresses. Close removes it.
func New(hosts ...string) (*Site, error) {
	o, err := self()
	if err != nil {
		return nil, fmt.Errorf("new site: %w", err)
	}
	dir, err := os.MkdirTemp("/tmp", o.String()+"-")
	if err != nil {
		return nil, fmt.Errorf("new site: %w", err)
	}
	s := &Site{owner: o, dir: dir, hosts: hosts, cuts: map[string]Cut{}, disks: map[string]*Disk{}}
	if err := errors.Join(os.Chmod(dir, 0o755), share(dir), s.build()); err != nil { // 0755: PostgreSQL's OS user must come through
		return nil, fmt.Errorf("new site: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

// share makes unmounts below the directory reach mount namespaces that others make meanwhile, as ip netns exec does for each command: a file system
// that is still mounted somewhere is not gone, whatever umount says.
func share(dir string) error {
	if _, err := command("mount", "--bind", dir, dir); err != nil {
		return err
	}
	_, err := command("mount", "--make-shared", dir)
	return err
}

// build makes the namespaces and the links. The links' ends are made where they belong, so that none is ever on the machine's own network.
func (s *Site) build() error {
	for _, h := range append([]string{Switch}, s.hosts...) {
		if _, err := command("ip", "netns", "add", s.namespace(h)); err != nil {
			return err
		}
		if _, err := command("ip", "-n", s.namespace(h), "link", "set", "lo", "up"); err != nil {
			return err
		}
	}
	sw := s.namespace(Switch)
	steps := [][]string{
		{"ip", "-n", sw, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0"},
		{"ip", "-n", sw, "link", "set", "br0", "up"},
	}
	for _, h := range s.hosts {
		steps = append(steps,
			[]string{"ip", "link", "add", Interface, "netns", s.namespace(h), "type", "veth", "peer", "name", h, "netns", sw},
			[]string{"ip", "-n", sw, "link", "set", "dev", h, "master", "br0"},
			[]string{"ip", "-n", sw, "link", "set", "dev", h, "up"},
			[]string{"ip", "-n", s.namespace(h), "addr", "add", s.Address(h) + "/24", "dev", Interface},
			[]string{"ip", "-n", s.namespace(h), "addr", "add", s.Address6(h) + "/64", "dev", Interface, "nodad"},
			[]string{"ip", "-n", s.namespace(h), "link", "set", "dev", Interface, "up"},
		)
	}
	for _, step := range steps {
		if _, err := command(step[0], step[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// Dir is the site's directory. Its path is short: it may hold sockets.
func (s *Site) Dir() string { return s.dir }

func (s *Site) namespace(host string) string { return filepath.Base(s.dir) + "-" + host }

// Address is the host's IPv4 address, of a network that exists in this site only.
func (s *Site) Address(host string) string {
	return fmt.Sprintf("10.77.0.%d", slices.Index(s.hosts, host)+1)
}

// Address6 is its IPv6 address.
func (s *Site) Address6(host string) string {
	return fmt.Sprintf("fd77::%d", slices.Index(s.hosts, host)+1)
}

// Enter moves the calling thread into the host's network. The goroutine must be locked to it, and must either end with it or leave again.
func (s *Site) Enter(host string) error { return enter(filepath.Join(namespaceDir, s.namespace(host))) }

func enter(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("enter %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", path, err)
	}
	return nil
}

// In runs f on a thread that is in the host's network: the sockets that f opens belong there, and so do the commands that it starts. f must
// not hand this to other goroutines.
func (s *Site) In(host string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer unix.Close(own)
		if err := s.Enter(host); err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		err = f()
		if unix.Setns(own, unix.CLONE_NEWNET) == nil { // else the thread ends with this goroutine
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Run runs a command on the host to its end.
func (s *Site) Run(host, input, name string, args ...string) (string, error) {
	var out string
	err := s.In(host, func() error {
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(input)
		b, err := cmd.CombinedOutput()
		out = string(b)
		if err != nil {
			return fmt.Errorf("on %s: %s %s: %w\n%s", host, name, strings.Join(args, " "), err, out)
		}
		return nil
	})
	return out, err
}

// Close kills what still runs on the hosts, unmounts the disks, and removes the namespaces and the directory.
func (s *Site) Close() error {
	return remove(filepath.Base(s.dir))
}

// command runs a program on this machine; the error has its output.
func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Cuts are the cuts that stand, in a stable order.
func (s *Site) Cuts() []Cut {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Cut
	for _, k := range slices.Sorted(maps.Keys(s.cuts)) {
		out = append(out, s.cuts[k])
	}
	return out
}
