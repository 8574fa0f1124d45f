package joining

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"kineshim/config"
)

// maxTyped bounds what is read where a token is expected.
const maxTyped = 4096

// ReadToken reads a token from the first line of what an operator types or pipes in. It is not taken from the command line, which every user of a machine can see.
func ReadToken(in io.Reader) (Token, error) {
	line, err := bufio.NewReader(io.LimitReader(in, maxTyped)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return Token{}, fmt.Errorf("read the join token: %w", err)
	}
	if strings.TrimSpace(line) == "" {
		return Token{}, errors.New("there is no join token on the standard input: echo TOKEN | ... join, with the token that kineshim init or kineshim token has printed")
	}
	return ParseToken(line)
}

// IsToken says whether text looks like a token, whole or not.
func IsToken(text string) bool { return strings.HasPrefix(strings.TrimSpace(text), tokenPrefix) }

// HostName is what this machine calls itself, and the name that makes for a member: the first label of it.
func HostName() (host, name string, err error) {
	if host, err = os.Hostname(); err != nil {
		return "", "", err
	}
	name, _, _ = strings.Cut(strings.ToLower(host), ".")
	if err := config.CheckName(name); err != nil {
		return host, "", fmt.Errorf("this machine's host name cannot be its name in the cluster: %w: give one with --name", err)
	}
	return host, name, nil
}

// routed is an address of nobody (RFC 5737). No packet is sent to it.
const routed = "192.0.2.1:9"

// OwnAddress is the address from which this machine speaks with others by default.
func OwnAddress() (string, error) {
	c, err := net.Dial("udp", routed)
	if err != nil {
		return "", fmt.Errorf("this machine has no default route, so that its address is not known (%w): give it with --advertise", err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

// At is host:port. A host with a port is refused.
func At(host string, port int) (string, error) {
	if _, _, err := net.SplitHostPort(host); err == nil && strings.Count(host, ":") == 1 {
		return "", fmt.Errorf("--advertise %s: the address only, without a port. Other ports: `members` in the configuration", host)
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(port)), nil
}

// CanListen says why this machine could not be reached at one of the addresses.
func CanListen(addresses ...string) error {
	for _, a := range addresses {
		if a == "" {
			continue
		}
		ln, err := net.Listen("tcp", a)
		switch {
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			host, _, _ := net.SplitHostPort(a)
			return fmt.Errorf("%s is no address of this machine: give one that is, with --advertise or in the configuration", host)
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("%s is in use on this machine: does a kineshim, a raftwitness or another program run already? (ss -ltnp) Its port can be another one in the configuration", a)
		case err != nil:
			return fmt.Errorf("%s: %w", a, err)
		}
		ln.Close()
	}
	return nil
}
