package ambient

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// roleEnv makes the test binary a service with an ambient capability; its value is what it does first.
const roleEnv = "AMBIENT_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
		os.Exit(m.Run())
	case "clear":
		Clear(slog.New(slog.NewTextHandler(os.Stdout, nil)))
	}
	own, _ := os.ReadFile("/proc/self/status")
	child, err := exec.Command("cat", "/proc/self/status").Output()
	fmt.Println(effective(string(own)), effective(string(child)), err)
}

func effective(status string) string {
	_, rest, _ := strings.Cut(status, "CapEff:\t")
	mask, _, _ := strings.Cut(rest, "\n")
	return strings.TrimLeft(mask, "0")
}

func TestChildrenGetNoCapabilities(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root gives capabilities away")
	}
	for role, want := range map[string]string{"keep": "1000 1000 <nil>\n", "clear": "1000  <nil>\n"} { // 1<<CAP_NET_ADMIN
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{"PATH=/usr/bin:/bin", roleEnv + "=" + role}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: []uintptr{unix.CAP_NET_ADMIN}}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%s: %q, %v; want %q", role, out, err, want)
		}
	}
}
