package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kineshim/integration/cluster"
)

// VIPs are the virtual addresses of every rig, on the site's network.
var VIPs = []netip.Addr{netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("fd77::100")}

// vipPort is where the etcd API is served there.
const vipPort = 2379

// vipConfig is what the data nodes' configurations say of the virtual addresses.
func vipConfig() string {
	return fmt.Sprintf("vips: [{address: %q}, {address: %q}]\nvip_etcd: {port: %d, accept_plain_text: true}\n", VIPs[0], VIPs[1], vipPort)
}

// vipTarget is the host:port of the etcd API at the first of them.
func vipTarget() string { return netip.AddrPortFrom(VIPs[0], vipPort).String() }

const (
	// vipLease is within what time a host loses a virtual address when its gate is closed, whatever becomes of kineshim.
	vipLease = 4 * time.Second
	// vipUnseen is for how long a gate's state may be unknown: a question to a node takes up to a second on a busy machine.
	vipUnseen = 1100 * time.Millisecond
	// vipLapse is for how long a virtual address may be where it must not be: a kineshim that was frozen between its look at the role and the renewal
	// puts it back when it goes on, sees that the role is gone, and takes it away.
	vipLapse = 500 * time.Millisecond
	// watchVIPsEvery is the pace at which the kernels are asked.
	watchVIPsEvery = 20 * time.Millisecond
)

// span is a stretch of time in which something was seen to hold: it held at some moment after from, and was seen last by a question asked at to.
type span struct{ from, to time.Time }

// vipWatch sees where the virtual addresses are, by asking the hosts' kernels, and when the gates are open, by what it is told. It is safe for concurrent use.
type vipWatch struct {
	mu sync.Mutex // guards what follows
	// on are the stretches in which an address was on a host, by host and address, in their order.
	on map[string]map[netip.Addr][]span
	// off is when an address was last seen not to be there.
	off map[string]map[netip.Addr]time.Time
	// open are the stretches in which a gate was open, shut when it was last said to be closed, by node.
	open map[string][]span
	shut map[string]time.Time
	// excused are hosts to which the addresses were given by hand, and since when.
	excused map[string]time.Time
	errs    []error
}

func newVIPWatch() *vipWatch {
	w := &vipWatch{on: map[string]map[netip.Addr][]span{}, off: map[string]map[netip.Addr]time.Time{}, open: map[string][]span{},
		shut: map[string]time.Time{}, excused: map[string]time.Time{}}
	for _, node := range cluster.DataNodes {
		w.on[node], w.off[node] = map[netip.Addr][]span{}, map[netip.Addr]time.Time{}
	}
	return w
}

// watch asks the host's kernel again and again until ctx ends.
func (w *vipWatch) watch(ctx context.Context, r *rig, host string) {
	var h *netlink.Handle
	err := r.site.In(host, func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		w.fail(fmt.Errorf("watch the virtual addresses of %s: %w", host, err))
		return
	}
	defer h.Close()
	t := time.NewTicker(watchVIPsEvery)
	defer t.Stop()
	for ctx.Err() == nil {
		from := time.Now()
		there, err := h.AddrList(nil, netlink.FAMILY_ALL)
		switch {
		case errors.Is(err, netlink.ErrDumpInterrupted): // asked again
		case err != nil:
			w.fail(fmt.Errorf("watch the virtual addresses of %s: %w", host, err))
		default:
			w.saw(host, from, there)
		}
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
}

// maxWatchErrors bounds what is kept of a host that cannot be watched.
const maxWatchErrors = 3

func (w *vipWatch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errs) < maxWatchErrors {
		w.errs = append(w.errs, err)
	}
}

// saw takes in what a kernel answered to a question asked at an instant.
func (w *vipWatch) saw(host string, asked time.Time, there []netlink.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, vip := range VIPs {
		if !slices.ContainsFunc(there, func(a netlink.Addr) bool { ip, ok := netip.AddrFromSlice(a.IP); return ok && ip.Unmap() == vip }) {
			w.off[host][vip] = asked
			continue
		}
		w.on[host][vip] = extend(w.on[host][vip], asked, asked, w.off[host][vip])
	}
}

// extend makes the last stretch longer, or begins another if it has ended since.
func extend(all []span, from, to, ended time.Time) []span {
	if n := len(all); n > 0 && !ended.After(all[n-1].to) {
		all[n-1].to = to
		return all
	}
	return append(all, span{from, to})
}

// gate takes in what a node said of its gate, between two instants.
func (w *vipWatch) gate(node string, from, to time.Time, open bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !open {
		w.shut[node] = to
		return
	}
	w.open[node] = extend(w.open[node], from, to, w.shut[node])
}

// excuse leaves out the host, which an operator gives the addresses by hand, from now on.
func (w *vipWatch) excuse(host string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.excused[host] = time.Now()
}

// holders says who had the addresses at a moment, IPv4 and IPv6 apart if they differ; "-" is nobody.
func (w *vipWatch) holders(at time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, vip := range VIPs {
		of := ""
		for _, node := range cluster.DataNodes {
			all := w.on[node][vip]
			i := slices.IndexFunc(all, func(s span) bool { return !s.from.After(at) && !s.to.Add(2*watchVIPsEvery).Before(at) })
			if still := len(all) > 0 && !w.off[node][vip].After(all[len(all)-1].to) && !all[len(all)-1].from.After(at); i >= 0 || still {
				of += node
			}
		}
		if of == "" {
			of = "-"
		}
		out = append(out, of)
	}
	return strings.Join(slices.Compact(out), "/")
}

// last is when the address was seen last on the host; false if it never was.
func (w *vipWatch) last(host string, vip netip.Addr) (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if all := w.on[host][vip]; len(all) > 0 {
		return all[len(all)-1].to, true
	}
	return time.Time{}, false
}

// amiss says what is wrong when exactly the node is to have all the addresses, by what was seen last.
func (w *vipWatch) amiss(node string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, host := range cluster.DataNodes {
		for _, vip := range VIPs {
			all := w.on[host][vip]
			has := len(all) > 0 && !w.off[host][vip].After(all[len(all)-1].to)
			if has != (host == node) {
				return fmt.Sprintf("%s on %s: %v, and %s is the primary", vip, host, has, node)
			}
		}
	}
	return ""
}

// check says what was wrong: an address on a host whose gate had not been open for longer than the lease.
func (w *vipWatch) check() (found []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, err := range w.errs {
		found = append(found, err.Error())
	}
	seen := false
	for _, host := range cluster.DataNodes {
		for _, vip := range VIPs {
			for _, s := range w.on[host][vip] {
				seen = true
				for _, rest := range outside(s, w.open[host]) {
					by, excused := w.excused[host]
					if rest.to.Sub(rest.from) > vipLapse && (!excused || rest.from.Before(by)) {
						found = append(found, fmt.Sprintf("%s was on %s for %s while its gate was closed, and had been for longer than the lease of %s",
							vip, host, rest.to.Sub(rest.from).Round(time.Millisecond), vipLease))
					}
				}
			}
		}
	}
	if !seen {
		found = append(found, "no virtual address was ever seen on a host")
	}
	return found
}

// outside is what of a stretch no open gate accounts for.
func outside(s span, open []span) (rest []span) {
	for _, g := range open {
		from, to := g.from.Add(-vipUnseen), g.to.Add(vipLease+vipUnseen)
		if to.Before(s.from) {
			continue
		}
		if from.After(s.to) {
			break
		}
		if s.from.Before(from) {
			rest = append(rest, span{s.from, from})
		}
		if s.from = to; !s.from.Before(s.to) {
			return rest
		}
	}
	return append(rest, s)
}

// OnlyHasVIPs waits until exactly the node has the virtual addresses.
func (t *Trial) OnlyHasVIPs(node string) {
	t.Until("exactly "+node+" has the virtual addresses", serveWithin, func(context.Context) string { return t.vips.amiss(node) })
}

// vipLeft waits until the virtual addresses have left a host on which nothing takes them away, and sees to it that this took no longer than the lease
// since an instant.
func (t *Trial) vipLeft(host string, since time.Time) {
	t.Run(vipLease + vipUnseen - time.Since(since))
	for _, vip := range VIPs {
		at, ok := t.vips.last(host, vip)
		if !ok {
			t.Fatalf("%s never was on %s: nothing is tried", vip, host)
		}
		t.timeline.note("%s was last seen on %s %s after the blow", vip, host, at.Sub(since).Round(time.Millisecond))
		if late := at.Sub(since); late > vipLease {
			t.Failf("%s was on %s for %s after the blow, at most %s is promised", vip, host, late.Round(time.Millisecond), vipLease)
		}
	}
}

// vipBeyond bounds by how much longer than the clients on the new primary's host those of the virtual address may be without an acknowledged write. The
// target is 0.5 s; a client whose connection hangs must first see that, which on a busy machine takes some seconds.
const vipBeyond = 4 * time.Second

// vipFollows compares the first write through the virtual address after a blow with that on the new primary's host.
func (t *Trial) vipFollows(since time.Time, to string) {
	t.Writes(VIP)
	from := t.load.rec.At(since)
	own, okOwn := t.load.rec.FirstWriteAfter(t.load.rec.At(t.opened(to, since)), to)
	vip, okVIP := t.load.rec.FirstWriteAfter(t.load.rec.At(t.opened(to, since)), VIP)
	if !okOwn || !okVIP {
		t.Fatalf("no write through %s or %s is acknowledged", to, VIP)
	}
	beyond := time.Duration(vip.End - own.End)
	t.timeline.note("first write after the blow: on %s after %s, through the virtual address after %s: %s beyond", to,
		time.Duration(own.End-from).Round(time.Millisecond), time.Duration(vip.End-from).Round(time.Millisecond), beyond.Round(time.Millisecond))
	if beyond > vipBeyond {
		t.Failf("the virtual address was without service for %s longer than %s, at most %s is bearable", beyond.Round(time.Millisecond), to, vipBeyond)
	}
}

// opened is when the gate of the node was first seen open after an instant.
func (t *Trial) opened(node string, since time.Time) time.Time {
	t.vips.mu.Lock()
	defer t.vips.mu.Unlock()
	for _, s := range t.vips.open[node] {
		if s.from.After(since) {
			return s.from
		}
	}
	return since
}
