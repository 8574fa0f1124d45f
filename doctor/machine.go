package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"kineshim/failover/vip"
	"kineshim/raftwitness"
	services "kineshim/unit"
)

// Local are the probes of this machine, but for StatusOf and Version. close ends what they need.
func Local() (p Probes, close func()) {
	kernel := &vip.Kernel{}
	return Probes{
		Files: localFiles{}, Users: localUsers{}, Systemd: systemctl{}, Network: localNetwork{}, Clock: kernelClock{}, Disk: localDisk{},
		Postgres: localPostgres{debianClusters}, Host: kernel, Ports: localPorts{}, Now: time.Now,
	}, kernel.Close
}

type localFiles struct{}

func (localFiles) Stat(path string) (Stat, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return Stat{}, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return Stat{}, fmt.Errorf("%s: its owner is not known", path)
	}
	return Stat{UID: int(st.Uid), GID: int(st.Gid), Mode: fi.Mode()}, nil
}

type localUsers struct{}

func (localUsers) ByName(name string) (User, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return User{}, err
	}
	return account(u)
}

func (localUsers) ByID(uid int) (User, error) {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return User{}, err
	}
	return account(u)
}

func account(u *user.User) (User, error) {
	a := User{Name: u.Username}
	var err error
	if a.UID, err = strconv.Atoi(u.Uid); err != nil {
		return User{}, err
	}
	groups, err := u.GroupIds()
	if err != nil {
		return User{}, err
	}
	for _, g := range append(groups, u.Gid) {
		n, err := strconv.Atoi(g)
		if err != nil {
			return User{}, err
		}
		a.GIDs = append(a.GIDs, n)
	}
	return a, nil
}

type localNetwork struct{}

func (localNetwork) Dial(ctx context.Context, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

func (localNetwork) Ask(ctx context.Context, c net.Conn, a Asker) (raftwitness.Answer, error) {
	return raftwitness.Ask(ctx, c, a.credentials, *a.id, a.to)
}

// systemctl asks systemd by its own command, which anybody may.
type systemctl struct{}

func (systemctl) Show(ctx context.Context, name string) (map[string]string, error) {
	if err := systemdRuns(os.Stat); err != nil {
		return nil, err
	}
	return services.Show(ctx, name, unitProperties...)
}

type localPorts struct{}

// TryListen opens the port as kineshim does. Nobody is accepted: it is open for some microseconds.
func (localPorts) TryListen(address string, anywhere bool) error {
	var ln net.Listener
	var err error
	if at, perr := netip.ParseAddrPort(address); anywhere && perr == nil {
		ln, err = vip.Listen(context.Background(), at)
	} else {
		ln, err = net.Listen("tcp", address)
	}
	if err != nil {
		return err
	}
	return ln.Close()
}
