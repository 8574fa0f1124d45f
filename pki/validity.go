package pki

import (
	"crypto/x509"
	"time"
)

// Validity is the time for which a certificate is good. The zero value is that of one that has not been seen.
type Validity struct{ NotBefore, NotAfter time.Time }

// ValidityOf is that of the certificate.
func ValidityOf(c *x509.Certificate) Validity { return Validity{c.NotBefore, c.NotAfter} }

// warnAtMost is how long before its end a certificate is warned of at most.
const warnAtMost = 30 * 24 * time.Hour

// Due says whether the certificate is to be renewed: less than a third of its life is left.
func (v Validity) Due(now time.Time) bool { return v.left(now) < v.NotAfter.Sub(v.NotBefore)/3 }

// Late says whether it should have been renewed long since: less than 30 days are left, or less than a quarter of a life that is shorter than four times that.
func (v Validity) Late(now time.Time) bool {
	return v.NotAfter != time.Time{} && v.left(now) < min(warnAtMost, v.NotAfter.Sub(v.NotBefore)/4)
}

func (v Validity) left(now time.Time) time.Duration { return v.NotAfter.Sub(now) }
