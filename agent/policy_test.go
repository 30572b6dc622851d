//go:build linux

package main

import (
	"testing"

	desiredpolicy "github.com/weftnet/weftnet/agent/desired/policy"
)

// TestPolicyOptions : what the MeshConfig says of the log; what it does not say is as documented.
func TestPolicyOptions(t *testing.T) {
	for _, row := range []struct {
		mode string
		rate int64
		want desiredpolicy.Options
	}{
		{"Never", 5, desiredpolicy.Options{Log: desiredpolicy.LogNever, LogRate: 5}},
		{"Annotated", 20, desiredpolicy.Options{Log: desiredpolicy.LogAnnotated, LogRate: 20}},
		{"All", 1000, desiredpolicy.Options{Log: desiredpolicy.LogAll, LogRate: 1000}},
		{"", 0, desiredpolicy.Options{Log: desiredpolicy.LogAnnotated}},
		{"Sometimes", -1, desiredpolicy.Options{Log: desiredpolicy.LogAnnotated}},
	} {
		if got := policyOptions(row.mode, row.rate); got != row.want {
			t.Errorf("%q and %d are %+v, want %+v", row.mode, row.rate, got, row.want)
		}
	}
}
