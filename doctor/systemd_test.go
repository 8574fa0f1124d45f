package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUnitsThatWouldNotStartOrDoNotFitAreTold(t *testing.T) {
	const runs = "ok kineshim.service is enabled: kineshim starts with the machine; now it is active (running)"
	set := func(kv ...string) func(*node) {
		return func(n *node) {
			for i := 0; i < len(kv); i += 2 {
				n.unit[kv[i]] = kv[i+1]
			}
		}
	}
	for name, tc := range map[string]struct {
		more  string
		spoil func(*node)
		k3s   unit
		err   error
		want  []string
	}{
		"as it should be":     {want: []string{runs}},
		"no systemd":          {err: fmt.Errorf("%w: none", ErrNoSystemd), want: []string{"warn systemd does not run here // have kineshim started"}},
		"not installed":       {spoil: set("LoadState", "not-found"), want: []string{"warn there is no unit kineshim.service (not-found) // systemctl enable kineshim"}},
		"not enabled":         {spoil: set("UnitFileState", "disabled"), want: []string{"warn kineshim.service is disabled // systemctl enable kineshim"}},
		"failed":              {spoil: set("ActiveState", "failed", "SubState", "failed", "Result", "exit-code"), want: []string{"FAIL (failed, failed, result exit-code) // journalctl -u kineshim"}},
		"ending all the time": {spoil: set("ActiveState", "activating", "SubState", "auto-restart"), want: []string{"FAIL ends again and again // journalctl -u kineshim"}},
		"nowhere to write":    {spoil: set("ProtectSystem", "strict", "StateDirectory", "other"), want: []string{runs, "FAIL does not let kineshim write to // ReadWritePaths="}},
		"changed":             {spoil: set("NeedDaemonReload", "yes"), want: []string{runs, "warn has been changed // systemctl daemon-reload"}},
		"k3s after it":        {k3s: unit{"LoadState": "loaded", "After": "network.target kineshim.service"}, want: []string{runs, "ok k3s.service is started after kineshim"}},
		"k3s not after it":    {k3s: unit{"LoadState": "loaded", "After": "network.target"}, want: []string{runs, "warn k3s.service is not started after kineshim // After=kineshim.service"}},
		"a port below 1024":   {more: "http_listen: 127.0.0.1:80", want: []string{runs, "FAIL http_listen: the service's user may not listen at 127.0.0.1:80 // CAP_NET_BIND_SERVICE"}},
		"and the capability":  {more: "http_listen: 127.0.0.1:80", spoil: set("AmbientCapabilities", "cap_net_bind_service"), want: []string{runs}},
		"and root": {more: "http_listen: 127.0.0.1:80", spoil: func(n *node) {
			n.user.User, n.unit["User"], n.unit["CapabilityBoundingSet"] = rootUser, "", "cap_net_bind_service"
		},
			want: []string{runs}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, tc.more)
			if tc.spoil != nil {
				tc.spoil(n)
			}
			expect(t, n.checkSystemd(tc.k3s, tc.err), tc.want...)
		})
	}
}

func TestTheServicesUserIsTheUnitsOrTheOwnerOfTheData(t *testing.T) {
	users := fakeUsers{kineshim, stranger, rootUser}
	files := fakeFiles{"/data": {1000, 1000, fs.ModeDir}, "/gone": {77, 77, fs.ModeDir}}
	plain := unit{"LoadState": "loaded", "User": ""}
	lost := unit{"LoadState": "loaded", "User": "nobody-knows"}
	for _, tc := range []struct {
		unit unit
		dir  string
		want serviceUser
	}{
		{installedUnit(), "/data", serviceUser{kineshim, true}}, {plain, "/data", serviceUser{rootUser, true}}, {lost, "/data", serviceUser{}},
		{nil, "/data", serviceUser{stranger, true}}, {nil, "/none", serviceUser{}}, {nil, "/gone", serviceUser{}},
	} {
		if d := cmp.Diff(tc.want, findServiceUser(tc.unit, tc.dir, files, users), cmp.AllowUnexported(serviceUser{})); d != "" {
			t.Errorf("%v, %s: %s", tc.unit, tc.dir, d)
		}
	}
}

func TestWhereSystemdDoesNotRunItIsNotAsked(t *testing.T) {
	if err := systemdRuns(func(string) (fs.FileInfo, error) { return nil, os.ErrNotExist }); !errors.Is(err, ErrNoSystemd) {
		t.Errorf("without systemd: %v", err)
	}
	if err := systemdRuns(func(string) (fs.FileInfo, error) { return nil, nil }); err != nil {
		t.Errorf("with systemd: %v", err)
	}
}
