package joining

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"kineshim/durable"
	"kineshim/pki"
	"kineshim/raftwitness"
)

const (
	// askWithin bounds one question to the founder.
	askWithin = 10 * time.Second
	// askEvery is how often a guest asks while it waits.
	askEvery = time.Second
	// sayEvery is how often it says on what it waits.
	sayEvery = 30 * time.Second
)

// ErrRefused wraps what the founder says when it refuses. Asking again does not help.
var ErrRefused = errors.New("refused")

// Visit is a machine's way into a cluster.
type Visit struct {
	Token Token
	// Dir takes what has to outlive an interruption: the guest's key.
	Dir string
	// Request says who the guest is; its secret and certificate request are filled in here.
	Request Request
	// Settle fills in what depends on the guest's own address, which is the one from which it reaches the founder.
	Settle func(q *Request, local net.IP) error
	// Say tells the operator what is waited for.
	Say func(format string, args ...any)
}

// Check asks whether the founder would take the guest, and changes nothing on either side.
func (v Visit) Check(ctx context.Context) (Answer, Request, error) {
	key, err := v.kept()
	if err == nil && key == nil {
		key, err = pki.NewKey()
	}
	if err != nil {
		return Answer{}, v.Request, err
	}
	v.Request.Dry = true
	return v.ask(ctx, key)
}

// Join asks until the guest is enrolled, and returns its enrolment, complete, with the settings that come with it. It ends with ctx, and may be begun again.
func (v Visit) Join(ctx context.Context) (raftwitness.Enrolment, Answer, error) {
	var e raftwitness.Enrolment
	key, err := v.key()
	if err != nil {
		return e, Answer{}, err
	}
	said, at := "", time.Time{}
	for {
		a, _, err := v.ask(ctx, key)
		switch {
		case errors.Is(err, ErrRefused):
			return e, a, err
		case err == nil && a.Enrolment != nil:
			e = *a.Enrolment
			if e.Certificates, err = e.Certificates.With(key); err == nil {
				err = errors.Join(e.Check(), v.asked(e))
			}
			return e, a, err
		}
		if now := waitsOn(a, err); now != said || time.Since(at) > sayEvery {
			said, at = now, time.Now()
			v.Say("%s", now)
		}
		select {
		case <-ctx.Done():
			return e, a, fmt.Errorf("not joined yet: %s. Run the same command again to go on", waitsOn(a, err))
		case <-time.After(askEvery):
		}
	}
}

// asked says what of the enrolment is not what the token is for: a founder that is another's tool could else make this machine another member, of another cluster.
func (v Visit) asked(e raftwitness.Enrolment) error {
	id := e.Identity
	if id.ClusterID != v.Token.Cluster || id.Role != v.Token.Role || id.Name != v.Request.Name {
		return fmt.Errorf("%w: the founder answers for the %s %q of cluster %s; asked was for the %s %q of cluster %s",
			ErrRefused, id.Role, id.Name, id.ClusterID, v.Token.Role, v.Request.Name, v.Token.Cluster)
	}
	switch got, err := e.Certificates.Authority(); {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case got != v.Token.Authority:
		return fmt.Errorf("%w: the certificates that the founder gives are not of the authority that the token names", ErrRefused)
	}
	return nil
}

// waitsOn says on what a guest waits.
func waitsOn(a Answer, err error) string {
	switch {
	case err != nil:
		return fmt.Sprintf("the founder does not answer, asked again and again: %v", err)
	case len(a.Missing) > 0:
		return fmt.Sprintf("%s knows this machine; waiting until the %s has joined too", a.Founder, Words(a.Missing[0]))
	}
	return "waiting for the founder"
}

// ask asks the founder once.
func (v Visit) ask(ctx context.Context, key *ecdsa.PrivateKey) (Answer, Request, error) {
	q := v.Request
	q.Secret = v.Token.Secret[:]
	var a Answer
	var err error
	if q.CSR, err = pki.Request(key); err != nil {
		return a, q, err
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	c, err := v.dial(ctx)
	if err != nil {
		return a, q, err
	}
	defer c.Close()
	if d, ok := ctx.Deadline(); ok {
		c.SetDeadline(d)
	}
	if err := v.Settle(&q, c.LocalAddr().(*net.TCPAddr).IP); err != nil {
		return a, q, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := writeFrame(c, q); err != nil {
		return a, q, err
	}
	if err := readFrame(c, &a); err != nil {
		return a, q, fmt.Errorf("read the founder's answer: %w", err)
	}
	if a.Error != "" {
		return a, q, fmt.Errorf("%w: %s", ErrRefused, a.Error)
	}
	return a, q, nil
}

// dial connects to the founder, at the first of its addresses that answers.
func (v Visit) dial(ctx context.Context) (*tls.Conn, error) {
	var errs []error
	for _, address := range v.Token.Addresses {
		raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c := tls.Client(raw, v.Token.tls())
		if err := c.HandshakeContext(ctx); err != nil {
			raw.Close()
			if !errors.Is(err, ErrRefused) {
				err = fmt.Errorf("whoever listens there does not know cluster %s, or not yet; was it founded anew since the token was made? (%w)", v.Token.Cluster, err)
			}
			errs = append(errs, fmt.Errorf("%s: %w", address, err))
			continue
		}
		return c, nil
	}
	return nil, errors.Join(errs...)
}

// tls knows the founder by the authority that the token pins.
func (t Token) tls() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: pki.ServerName(t.Cluster), NextProtos: []string{Protocol},
		InsecureSkipVerify: true, // VerifyConnection does, by what the token pins: neither public authorities nor host names matter
		VerifyConnection:   t.verify,
	}
}

// errStranger is for who answers at the founder's address and is not the founder.
var errStranger = fmt.Errorf("%w: whoever answers there does not belong to the cluster of this token", ErrRefused)

func (t Token) verify(s tls.ConnectionState) error {
	if len(s.PeerCertificates) != 2 || s.NegotiatedProtocol != Protocol {
		return errStranger
	}
	leaf, ca := s.PeerCertificates[0], s.PeerCertificates[1]
	if sha256.Sum256(ca.Raw) != t.Authority {
		return errStranger
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	at := time.Now()
	if at.Before(leaf.NotBefore) { // a machine without a clock
		at = leaf.NotBefore
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, CurrentTime: at}); err != nil {
		return fmt.Errorf("the founder's certificate: %w", err)
	}
	if id, err := pki.IDOf(leaf); err != nil || id.Cluster != t.Cluster || id.Role != pki.Data {
		return errStranger
	}
	return nil
}

// visitFile keeps a guest's key from its first question until it is enrolled.
const visitFile = "joining.json"

// visit is what is kept.
type visit struct {
	// Secret is the hash of the token's: another token is another visit.
	Secret []byte `json:"secretSHA256"`
	Key    string `json:"key"`
}

// kept is the key of an earlier visit with this token; nil: there was none.
func (v Visit) kept() (*ecdsa.PrivateKey, error) {
	var kept visit
	b, err := os.ReadFile(v.path())
	if err == nil {
		err = json.Unmarshal(b, &kept)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", v.path(), err)
	case !bytes.Equal(kept.Secret, hash(v.Token.Secret[:])):
		return nil, nil
	}
	return pki.DecodeKey([]byte(kept.Key))
}

func (v Visit) path() string { return filepath.Join(v.Dir, visitFile) }

// key is the guest's for this token: the one of an earlier visit, or a new one, which is durable before it is used.
func (v Visit) key() (*ecdsa.PrivateKey, error) {
	key, err := v.kept()
	if err != nil || key != nil {
		return key, err
	}
	if key, err = pki.NewKey(); err != nil {
		return nil, err
	}
	text, err := pki.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(visit{Secret: hash(v.Token.Secret[:]), Key: string(text)})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(v.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := durable.Write(v.path(), append(b, '\n'), 0o600); err != nil {
		return nil, fmt.Errorf("keep the key for joining: %w", err)
	}
	return key, nil
}

// Forget removes what was kept for the visit, once the guest is enrolled.
func (v Visit) Forget() error {
	err := os.Remove(v.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
