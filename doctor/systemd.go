package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	services "kineshim/unit"
)

const systemdCheck = "systemd"

// Systemd is asked about units.
type Systemd interface {
	// Show returns the unit's properties, as `systemctl show` names them. ErrNoSystemd where systemd does not run.
	Show(ctx context.Context, unit string) (map[string]string, error)
}

// The properties that the checks ask for.
var unitProperties = append([]string{
	"LoadState", "UnitFileState", "ActiveState", "SubState", "Result", "MainPID",
	"AmbientCapabilities", "CapabilityBoundingSet", "NeedDaemonReload", "After", "FragmentPath",
}, services.SandboxProperties...)

const (
	ourUnit = "kineshim.service"
	k3sUnit = "k3s.service"
)

// unit is what systemd says of one.
type unit map[string]string

func (u unit) installed() bool { return u["LoadState"] == "loaded" }

// running: it is, or is being started or stopped.
func (u unit) running() bool { return u["MainPID"] != "" && u["MainPID"] != "0" }

// capabilities are those that its process gets: root has what the bounding set leaves, others what is ambient.
func (u unit) capabilities() []string {
	list := u["AmbientCapabilities"]
	if u["User"] == "" || u["User"] == "root" {
		list = u["CapabilityBoundingSet"]
	}
	return strings.Fields(strings.ToLower(list))
}

// has says whether it has the capability, in lower case.
func (u unit) has(capability string) bool { return slices.Contains(u.capabilities(), capability) }

// serviceUser is whom the service runs as, if that is known.
type serviceUser struct {
	User
	known bool
}

// findServiceUser takes the user of the unit, or the owner of the data directory where there is no unit.
func findServiceUser(u unit, dataDir string, files Files, users Users) serviceUser {
	if u.installed() {
		name := u["User"]
		if name == "" {
			name = "root"
		}
		if found, err := users.ByName(name); err == nil {
			found.ReadsAll = u.has("cap_dac_read_search")
			return serviceUser{found, true}
		}
		return serviceUser{}
	}
	s, err := files.Stat(dataDir)
	if err != nil {
		return serviceUser{}
	}
	found, err := users.ByID(s.UID)
	return serviceUser{found, err == nil}
}

// checkSystemd judges the units. unitErr is why nothing is known of them.
func (n *node) checkSystemd(k3s unit, unitErr error) []Finding {
	f := notes{check: systemdCheck}
	if unitErr != nil {
		f.warn("have kineshim started by what starts services on this machine, with a restart whenever it ends", "nothing is known of kineshim's unit: %v", unitErr)
		return f.all
	}
	u := n.unit
	switch {
	case !u.installed():
		f.warn("install the package, or: install -m 0644 deploy/systemd/kineshim.service /etc/systemd/system/ && systemctl daemon-reload && systemctl enable kineshim",
			"there is no unit %s (%s): kineshim does not start with the machine", ourUnit, orNothing(u["LoadState"]))
		return f.all
	case u["UnitFileState"] != "enabled":
		f.warn("systemctl enable kineshim", "%s is %s: kineshim does not start with the machine", ourUnit, orNothing(u["UnitFileState"]))
	case u["ActiveState"] == "failed" || u["SubState"] == "auto-restart":
		f.fail("journalctl -u kineshim -n 50", "%s ends again and again (%s, %s, result %s)", ourUnit, u["ActiveState"], u["SubState"], orNothing(u["Result"]))
	default:
		f.ok("%s is enabled: kineshim starts with the machine; now it is %s (%s)", ourUnit, orNothing(u["ActiveState"]), orNothing(u["SubState"]))
	}
	if u["NeedDaemonReload"] == "yes" {
		f.warn("systemctl daemon-reload", "%s has been changed since systemd read it: %s", ourUnit, u["FragmentPath"])
	}
	if dir := n.cfg.DataDir; !services.NewSandbox(u).MayWrite(dir) {
		f.fail(services.Allow(ourUnit, dir), "the unit does not let kineshim write to %s (ProtectSystem=strict)", dir)
	}
	n.checkPrivilegedPorts(&f)
	checkK3s(&f, k3s)
	return f.all
}

func checkK3s(f *notes, k3s unit) {
	if !k3s.installed() {
		return
	}
	if slices.Contains(strings.Fields(k3s["After"]), ourUnit) {
		f.ok("%s is started after kineshim", k3sUnit)
		return
	}
	f.warn("systemctl edit k3s, and put in: [Unit] and below it After=kineshim.service",
		"%s is not started after kineshim, so it ends and is started anew until its datastore is there", k3sUnit)
}

// checkPrivilegedPorts: only who has the capability, as root has unless its bounding set lacks it, may listen below 1024.
func (n *node) checkPrivilegedPorts(f *notes) {
	const capability, first = "cap_net_bind_service", 1024
	if n.unit.has(capability) {
		return
	}
	for _, l := range n.listeners() {
		if l.port() < first && l.port() > 0 {
			f.fail("systemctl edit kineshim, and put in: [Service] and below it AmbientCapabilities=CAP_NET_BIND_SERVICE and CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
				"%s: the service's user may not listen at %s: the port is below %d", l.Key, l.Address, first)
		}
	}
}

func orNothing(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// systemdRuns says whether systemd started this machine; sd_booted(3).
func systemdRuns(stat func(string) (fs.FileInfo, error)) error {
	if _, err := stat("/run/systemd/system"); err != nil {
		return fmt.Errorf("%w: there is no /run/systemd/system", ErrNoSystemd)
	}
	return nil
}
