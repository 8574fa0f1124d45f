package doctor

import (
	"context"
	"errors"
	"strings"

	"kineshim/proto"
)

const daemonCheck = "kineshim"

// StatusOf asks the kineshim behind a control socket. ErrNotRunning if nobody listens there.
type StatusOf func(ctx context.Context, socket string) (*proto.StatusResponse, error)

// checkDaemon judges the running kineshim. statusErr is why it has not answered.
func (n *node) checkDaemon(statusErr error, version string) []Finding {
	f := notes{check: daemonCheck}
	switch {
	case errors.Is(statusErr, ErrNotRunning) && !n.running:
		f.warn("systemctl start kineshim", "kineshim does not run")
		return f.all
	case errors.Is(statusErr, ErrNotRunning):
		f.fail("journalctl -u kineshim -n 50; if control_socket was changed: systemctl restart kineshim", "kineshim's unit runs, but nobody listens at %s", n.cfg.ControlSocket)
		return f.all
	case statusErr != nil:
		f.fail("journalctl -u kineshim -n 50", "kineshim does not answer: %v", statusErr)
		return f.all
	}
	st := n.status
	switch {
	case !st.GetServing():
		f.fail("shimctl status says what to do", "%s", withReasons(st))
	case !st.GetArmed():
		f.warn("shimctl status says what to do", "%s", withReasons(st))
	default:
		f.ok("%s", st.Headline())
	}
	n.judgeVersions(&f, version)
	return f.all
}

func withReasons(st *proto.StatusResponse) string {
	return strings.Join(append([]string{st.Headline()}, st.GetNotArmed()...), "\n")
}

// judgeVersions compares the versions that run with the one that is installed here, which is shimctl's.
func (n *node) judgeVersions(f *notes, version string) {
	here := n.status.GetVersion()
	if here != version {
		f.warn("systemctl restart kineshim, the standby first; a primary hands over before it stops",
			"kineshim %s runs here, and shimctl is %s: the newer one runs from its next start", here, version)
	} else {
		f.ok("kineshim %s runs here, as new as shimctl", here)
	}
	for _, s := range n.status.GetNodes() {
		if v := s.GetState().GetVersion(); !s.GetSelf() && v != "" && v != here {
			f.warn("give both the same version", "%s runs kineshim %s, this node %s", s.GetName(), v, here)
		}
	}
}
