package pki

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bundle is that of a new data node.
func bundle(tb testing.TB, a *Authority) Bundle {
	tb.Helper()
	key, err := NewKey()
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := a.Issue(idA, key.Public(), time.Hour, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	b, err := a.Grant(cert, true)
	if err == nil {
		b, err = b.With(key)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func someAuthority(f *testing.F) *Authority {
	a, err := NewAuthority("c1", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	return a
}

// FuzzFiles: of what is read as a member's file, key and certificate belong together, and what is written of it is read as the same.
func FuzzFiles(f *testing.F) {
	a := someAuthority(f)
	b, other := bundle(f, a), bundle(f, a)
	f.Add([]byte(b.Member))
	f.Add([]byte(b.Member[:strings.Index(b.Member, "-----BEGIN CERT")] + other.Member[strings.Index(other.Member, "-----BEGIN CERT"):]))
	f.Add([]byte(b.CA))
	f.Add([]byte(b.CAKey))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := decodeCertificate(b); err == nil {
			again, err := decodeCertificate(encodeCertificate(c))
			if err != nil || !again.Equal(c) {
				t.Fatalf("the certificate became another one: %v", err)
			}
			_, _ = IDOf(c)
		}
		p, err := decodePair(b)
		if err != nil {
			return
		}
		if !p.key.PublicKey.Equal(p.cert.PublicKey) {
			t.Fatal("the key is not that of the certificate")
		}
		written, err := encodePair(p.key, p.cert)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodePair(written)
		if err != nil || !again.cert.Equal(p.cert) || !again.key.Equal(p.key) {
			t.Fatalf("it became another one: %v", err)
		}
	})
}

// FuzzBundle: a bundle that is found good is that of the member, and what is saved of it can be used.
func FuzzBundle(f *testing.F) {
	b, err := json.Marshal(bundle(f, someAuthority(f)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"ca":"","caKey":"x","member":"-----BEGIN PRIVATE KEY-----"}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		var bundle Bundle
		if json.Unmarshal(b, &bundle) != nil || bundle.Check(idA) != nil {
			return
		}
		os.Remove(filepath.Join(dir, authorityKeyFile)) // of an earlier input
		if err := bundle.Save(dir); err != nil {
			t.Fatal(err)
		}
		c, err := Load(dir, idA)
		if err != nil || c.ID() != idA {
			t.Fatalf("it was found good, and cannot be used: %v", err)
		}
		if _, err := LoadAuthority(dir); (err == nil) != (bundle.CAKey != "") {
			t.Fatalf("the authority: %v", err)
		}
	})
}

// FuzzRequest: whatever is asked for, a certificate is of the one who asks, of this authority, and no authority itself.
func FuzzRequest(f *testing.F) {
	a := someAuthority(f)
	key, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	request, err := Request(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request)
	f.Add(request[:len(request)-1])
	f.Add(bytes.Repeat([]byte{0x30}, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		cert, err := a.Answer(b, idW, time.Hour, time.Now())
		if err != nil {
			return
		}
		if id, err := IDOf(cert); err != nil || id != idW {
			t.Fatalf("it is that of %v, %v", id, err)
		}
		if cert.IsCA || cert.CheckSignatureFrom(a.cert) != nil {
			t.Fatal("it is an authority's, or of another one")
		}
	})
}
