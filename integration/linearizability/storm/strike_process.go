package storm

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"kineshim/integration/cluster"
)

// undoing starts a node again.
func (x *striker) undoing(node string) func() error { return func() error { return x.release(node) } }

// killWith ends a node by a method of the cluster's, until it is undone.
func killWith(x *striker, b Blow, kill func(string) error) (func() error, error) {
	node, err := x.host(b.Target)
	if err != nil {
		return nil, err
	}
	if !x.rig.Running(node) {
		return nil, skip("%s does not run", node)
	}
	x.keepDown(node)
	if err := kill(node); err != nil {
		x.tell("     %v", err) // half of it may have happened: it is undone as if all had
	}
	return x.undoing(node), nil
}

func killProcess(x *striker, b Blow) (func() error, error) { return killWith(x, b, x.rig.Kill) }
func killNode(x *striker, b Blow) (func() error, error)    { return killWith(x, b, x.rig.KillNode) }
func killGroup(x *striker, b Blow) (func() error, error)   { return killWith(x, b, x.rig.KillGroup) }

// signalled strikes at one process or a few, and lets the node go on if it finds none.
func signalled(x *striker, b Blow, send func(string) error) error {
	node, err := x.host(b.Target)
	if err != nil {
		return err
	}
	if err := send(node); err != nil {
		return skip("%v", err)
	}
	return nil
}

func killPostmaster(x *striker, b Blow) (func() error, error) {
	return nil, signalled(x, b, x.rig.KillPostgres)
}

func killBackend(x *striker, b Blow) (func() error, error) {
	return nil, signalled(x, b, x.rig.KillBackend)
}

func killOf(what string) func(*striker, Blow) (func() error, error) {
	return func(x *striker, b Blow) (func() error, error) {
		return nil, signalled(x, b, func(node string) error {
			pid, err := x.rig.FindPostgres(node, what)
			if err != nil {
				return err
			}
			return syscall.Kill(pid, syscall.SIGKILL)
		})
	}
}

// deathwatch is the process that tells the others when kineshim has been killed.
func (x *striker) deathwatch(node string) (int, error) {
	for _, pid := range x.rig.PIDs(node) {
		title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.HasSuffix(string(title), "\x00deathwatch\x00") {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("%s has no deathwatch", node)
}

func (x *striker) signalDeathwatch(signal syscall.Signal) func(string) error {
	return func(node string) error {
		pid, err := x.deathwatch(node)
		if err != nil {
			return err
		}
		return syscall.Kill(pid, signal)
	}
}

func killDeathwatch(x *striker, b Blow) (func() error, error) {
	return nil, signalled(x, b, x.signalDeathwatch(syscall.SIGKILL))
}

// freezeDeathwatch keeps it from telling anything. It goes on even if it has become an orphan meanwhile, which no method of the cluster would find.
func freezeDeathwatch(x *striker, b Blow) (func() error, error) {
	var pid int
	err := signalled(x, b, func(node string) (err error) {
		if pid, err = x.deathwatch(node); err != nil {
			return err
		}
		return syscall.Kill(pid, syscall.SIGSTOP)
	})
	if err != nil {
		return nil, err
	}
	return func() error {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return nil
	}, nil
}

// reloadPostgres has PostgreSQL read its configuration again, as operators do.
func reloadPostgres(x *striker, b Blow) (func() error, error) {
	return nil, signalled(x, b, func(node string) error {
		pid, err := x.rig.Postmaster(node)
		if err != nil {
			return err
		}
		return syscall.Kill(pid, syscall.SIGHUP)
	})
}

// frozen strikes with a method that stops processes. Its undoing lets everything on the host go on, whatever else has stopped some of it.
func frozen(x *striker, b Blow, freeze func(string) error) (func() error, error) {
	nodes, err := x.hosts(b.Target)
	if err != nil {
		return nil, err
	}
	var struck []string
	for _, node := range nodes {
		if err := freeze(node); err != nil {
			x.tell("     %v", err)
		}
		struck = append(struck, node) // some may have been stopped
	}
	return func() error {
		for _, node := range struck {
			if err := x.rig.ThawNode(node); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func freezeProcess(x *striker, b Blow) (func() error, error) {
	return frozen(x, b, x.rig.FreezeKineshim)
}
func freezeNode(x *striker, b Blow) (func() error, error) { return frozen(x, b, x.rig.FreezeNode) }
func freezePostgres(x *striker, b Blow) (func() error, error) {
	return frozen(x, b, x.rig.FreezePostgres)
}
func freezePostmaster(x *striker, b Blow) (func() error, error) {
	return frozen(x, b, x.rig.FreezePostmaster)
}

func freezeOf(what string) func(*striker, Blow) (func() error, error) {
	return func(x *striker, b Blow) (func() error, error) {
		return frozen(x, b, func(node string) error { return x.rig.FreezeProcess(node, what) })
	}
}

// powerCut takes hosts' power away at one instant.
func powerCut(x *striker, b Blow) (func() error, error) {
	nodes, err := x.hosts(b.Target)
	if err != nil {
		return nil, err
	}
	for _, node := range nodes {
		if x.disks[node] > 0 {
			return nil, skip("the disk of %s is broken already", node)
		}
	}
	for _, node := range nodes {
		x.keepDown(node)
		x.disks[node]++
	}
	if err := x.rig.PowerOff(nodes...); err != nil {
		return nil, err
	}
	return func() error {
		for _, node := range nodes {
			x.disks[node]--
			if err := x.rig.PowerOn(node); err != nil {
				return err
			}
			if err := x.release(node); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// stopsWithin is how long a process may take for a clean stop, as systemd allows it to by default. Then it is killed, and that is told.
const stopsWithin = 90 * time.Second

func stopCleanly(x *striker, b Blow) (func() error, error) {
	node, err := x.host(b.Target)
	if err != nil {
		return nil, err
	}
	if !x.rig.Running(node) {
		return nil, skip("%s does not run", node)
	}
	x.keepDown(node)
	began := time.Now()
	if err := syscall.Kill(x.rig.PID(node), syscall.SIGTERM); err != nil {
		return nil, err
	}
	return func() error { return x.stopped(node, began) }, nil
}

// stopped starts a node again once it has stopped. Until then it looks again and again between other events: one of them may be what it waits for.
func (x *striker) stopped(node string, began time.Time) error {
	if x.rig.Running(node) && time.Since(began) < stopsWithin {
		x.later = append(x.later, event{at: time.Since(x.began) + lookEvery, do: func() error { return x.stopped(node, began) }})
		return nil
	}
	if x.rig.Running(node) {
		x.tell("     %s has not stopped within %s, and is killed", node, stopsWithin)
	} else {
		x.tell("     %s has stopped", node)
	}
	if err := x.rig.KillNode(node); err != nil { // nothing, if all of it has stopped
		return err
	}
	return x.release(node)
}

// serves waits until the node's gate is open.
func (x *striker) serves(node string, within time.Duration) bool {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(lookEvery) {
		s, err := x.rig.Status(x.ctx, node)
		if err == nil && cluster.Self(s).GetGateOpen() {
			return true
		}
	}
	return false
}
