package service_test

import (
	"testing"

	"github.com/weftnet/weftnet/agent/desired/service"
)

// BenchmarkService is what one changed Service costs before anything is written: a dual-stack ClusterIP
// with two endpoints.
func BenchmarkService(b *testing.B) {
	o := web()
	node := here()
	claims := service.NewClaims()
	b.ReportAllocs()
	for b.Loop() {
		w := service.For(o.Service, o.slices, node)
		claims.Set(w)
		if len(claims.Settle(w).Sets()) == 0 {
			b.Fatal("no elements")
		}
	}
}
