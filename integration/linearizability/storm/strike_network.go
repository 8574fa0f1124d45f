package storm

import (
	"errors"
	"slices"
	"time"

	"kineshim/integration/cluster"
	"kineshim/integration/lab/site"
)

// apply adds cuts; undoing removes these and no others.
func (x *striker) apply(cuts []site.Cut) (func() error, error) {
	var own []*site.Cut
	for i := range cuts {
		own = append(own, &cuts[i])
		x.cuts[&cuts[i]] = cuts[i]
	}
	set := func() error {
		var all []site.Cut
		for _, c := range x.cuts {
			all = append(all, c)
		}
		return x.rig.Site().SetCuts(all...)
	}
	return func() error {
		for _, c := range own {
			delete(x.cuts, c)
		}
		return set()
	}, set()
}

func cutLink(x *striker, b Blow) (func() error, error) {
	cuts, err := x.link(b.Target)
	if err != nil {
		return nil, err
	}
	return x.apply(cuts)
}

// lossPercent is the share of packets that get lost: of the failure matrix's row 26.
const lossPercent = 30

func losePackets(x *striker, b Blow) (func() error, error) {
	cuts, err := x.link(b.Target)
	if err != nil {
		return nil, err
	}
	for i := range cuts {
		cuts[i].Percent = lossPercent
	}
	return x.apply(cuts)
}

// isolate cuts nodes off from one another. Clients reach them still.
func isolate(x *striker, b Blow) (func() error, error) {
	nodes, err := x.hosts(b.Target)
	if err != nil {
		return nil, err
	}
	var cuts []site.Cut
	for _, node := range nodes {
		cuts = append(cuts, site.Around(node, cluster.Nodes...)...)
	}
	return x.apply(cuts)
}

func interfaceDown(x *striker, b Blow) (func() error, error) {
	return switched(x, b, x.rig.Site().SetInterface)
}

func unplug(x *striker, b Blow) (func() error, error) { return switched(x, b, x.rig.Site().SetPort) }

func switched(x *striker, b Blow, set func(string, bool) error) (func() error, error) {
	nodes, err := x.hosts(b.Target)
	if err != nil {
		return nil, err
	}
	to := func(up bool) error {
		var errs []error
		for _, node := range nodes {
			errs = append(errs, set(node, up))
		}
		return errors.Join(errs...)
	}
	return func() error { return to(true) }, to(false)
}

// flapEvery is how long a flapping link stays up, or down. It is longer than a failover takes, and shorter than one that is undone.
const flapEvery = 700 * time.Millisecond

func flap(x *striker, b Blow) (func() error, error) {
	node, err := x.host(b.Target)
	if err != nil {
		return nil, err
	}
	up := slices.Repeat([]bool{true, false}, int(b.For/flapEvery)/2)
	for i, now := range up {
		at := time.Since(x.began) + time.Duration(i+1)*flapEvery
		x.later = append(x.later, event{at, "  the link of " + node + " goes " + map[bool]string{true: "up", false: "down"}[now],
			func() error { return x.rig.Site().SetPort(node, now) }})
	}
	return func() error { return x.rig.Site().SetPort(node, true) }, x.rig.Site().SetPort(node, false)
}
