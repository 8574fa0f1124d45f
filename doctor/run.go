package doctor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"kineshim/config"
	"kineshim/failover/vip"
	"kineshim/proto"
)

var (
	// ErrNoSystemd: systemd does not run this machine.
	ErrNoSystemd = errors.New("systemd does not run here")
	// ErrNotRunning: no kineshim listens.
	ErrNotRunning = errors.New("kineshim does not run")
)

const (
	// askingFor bounds what the other checks rest on: what systemd and the running kineshim say.
	askingFor = 3 * time.Second
	// checkingFor bounds the checks, the longest of which waits for a member five times.
	checkingFor = 10 * time.Second
)

// Probes are what the checks ask.
type Probes struct {
	Files    Files
	Users    Users
	Systemd  Systemd
	Network  Network
	Clock    Clock
	Disk     Disk
	Postgres Postgres
	Host     vip.Host
	Ports    Ports
	StatusOf StatusOf
	// Version is that of the program that checks.
	Version string
	Now     func() time.Time
}

// node is what the checks know of this node. It does not change while they run.
type node struct {
	path      string
	cfg       config.Node
	now       time.Time
	enrolment enrolment
	self      member
	others    []member
	unit      unit
	user      serviceUser
	// running: a kineshim of this configuration runs, or its unit does. status is what it says; nil if it does not.
	running bool
	status  *proto.StatusResponse
}

// check is one family, or several that look at the same facts.
type check struct {
	name string
	run  func(context.Context) []Finding
}

// Run makes all checks of the node with the configuration at path, in little more than ten seconds at most. Without a valid configuration it has nothing
// to check but that.
func Run(ctx context.Context, path string, p Probes) Report {
	cfg, mistakes := loadConfig(path)
	if mistakes != nil {
		return unusable(cfg.Name, mistakes)
	}
	n := &node{path: path, cfg: cfg, now: p.Now(), enrolment: loadEnrolment(cfg.DataDir)}
	if err := complete(&n.cfg, n.enrolment.id); err != nil {
		return unusable(cfg.Name, judgeConfig(path, err))
	}
	cfg = n.cfg
	n.self, n.others = membersOf(cfg, n.enrolment.id)
	k3s, unitErr, statusErr := n.ask(ctx, p)
	n.user = findServiceUser(n.unit, cfg.DataDir, p.Files, p.Users)

	r := Report{Node: cfg.Name, Other: otherData(n.others).name}
	if n.enrolment.id != nil {
		r.Cluster = n.enrolment.id.ClusterID
	}
	ctx, cancel := context.WithTimeout(ctx, checkingFor)
	defer cancel()
	for _, found := range runAll(ctx, []check{
		{configCheck, func(context.Context) []Finding { return n.checkConfig(path, p.Files) }},
		{enrolmentCheck, func(context.Context) []Finding { return n.checkEnrolment(p.Files) }},
		{portsCheck, func(ctx context.Context) []Finding { return n.checkNetwork(ctx, p) }},
		{diskCheck, func(ctx context.Context) []Finding { return n.checkDisk(ctx, p.Disk) }},
		{postgresCheck, func(ctx context.Context) []Finding { return n.checkPostgres(ctx, p.Postgres, p.Files, p.Users) }},
		{vipCheck, func(ctx context.Context) []Finding { return n.checkVIPs(ctx, p.Host) }},
		{bindCheck, func(context.Context) []Finding { return n.checkBinds(p.Ports) }},
		{systemdCheck, func(context.Context) []Finding { return n.checkSystemd(k3s, unitErr) }},
		{daemonCheck, func(context.Context) []Finding { return n.checkDaemon(statusErr, p.Version) }},
	}) {
		r.Findings = append(r.Findings, found...)
	}
	r.Failed = r.Count(Fail) > 0
	return r
}

// unusable is the report on a configuration that cannot be used.
func unusable(name string, mistakes []Finding) Report {
	rest := Finding{configCheck, Warn, "nothing else was checked, as it all needs the configuration", []string{"correct that first, and run this again"}}
	return Report{Node: name, Failed: true, Findings: append(mistakes, rest)}
}

// ask finds out what the checks rest on, side by side.
func (n *node) ask(ctx context.Context, p Probes) (k3s unit, unitErr, statusErr error) {
	ctx, cancel := context.WithTimeout(ctx, askingFor)
	defer cancel()
	var asked sync.WaitGroup
	asked.Go(func() {
		if n.unit, unitErr = p.Systemd.Show(ctx, ourUnit); unitErr == nil {
			k3s, unitErr = p.Systemd.Show(ctx, k3sUnit)
		}
	})
	asked.Go(func() { n.status, statusErr = p.StatusOf(ctx, n.cfg.ControlSocket) })
	asked.Wait()
	n.running = n.unit.running() || !errors.Is(statusErr, ErrNotRunning)
	return k3s, unitErr, statusErr
}

// checkNetwork is all that is seen of the others by calling them.
func (n *node) checkNetwork(ctx context.Context, p Probes) []Finding {
	all := n.reachAll(ctx, p.Network)
	found := append(n.checkPorts(all), n.checkTrips(all)...)
	return append(found, n.checkClocks(p.Clock, all)...)
}

// runAll runs the checks side by side and returns what each has found. One that has not ended with ctx hangs in the kernel, on a disk as a rule: it is
// not waited for, and ends with the process.
func runAll(ctx context.Context, checks []check) [][]Finding {
	results := make([]chan []Finding, len(checks))
	for i, c := range checks {
		results[i] = make(chan []Finding, 1)
		go func() { results[i] <- c.run(ctx) }()
	}
	var all [][]Finding
	for i, c := range checks {
		all = append(all, wait(ctx, c, results[i]))
	}
	return all
}

// endsWithin is how long a check that heeds its context may take to end after it.
const endsWithin = time.Second

func wait(ctx context.Context, c check, result <-chan []Finding) []Finding {
	select {
	case found := <-result:
		return found
	case <-ctx.Done():
	}
	t := time.NewTimer(endsWithin)
	defer t.Stop()
	select {
	case found := <-result:
		return found
	case <-t.C:
		f := notes{check: c.name}
		f.fail("dmesg; is a disk broken, or a network file system away?", "%s", fmt.Sprintf("no result within %v: something hangs in the kernel", checkingFor))
		return f.all
	}
}
