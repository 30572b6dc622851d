//go:build netns

package policy_test

import (
	"fmt"
	"testing"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/test/nstest"
)

// crowd is a node of which every Pod is selected by a thousand policies, the dearest for the kernel
// to check: the maps of the base chains lead many times to long chains.
func crowd() *policy.Engine {
	e := policy.New(policy.Options{})
	e.SetNamespace(snapshot.Namespace{Name: "team-0"})
	for i := range podsHere {
		p := manyPod(i)
		p.Namespace = "team-0"
		e.SetPod(p)
		e.Attach(policy.Endpoint{Link: fmt.Sprintf("weftp%d", i), Pod: p.Key(), UID: p.UID, IPs: p.IPs})
	}
	for i := range manyPolicies {
		e.SetNetworkPolicy(crowdPolicy(i))
	}
	return e
}

func crowdPolicy(i int) snapshot.NetworkPolicy {
	np := manyPolicy(i)
	np.Namespace, np.PodSelector = "team-0", snapshot.Selector{}
	np.Ingress[0].Peers[0] = snapshot.NetworkPolicyPeer{PodSelector: one("peer", fmt.Sprint(i))}
	return np
}

// BenchmarkKernel applies changes to the kernel.
func BenchmarkKernel(b *testing.B) {
	for _, world := range []struct {
		name   string
		engine func() *policy.Engine
		policy func(int) snapshot.NetworkPolicy
		pod    func(int) snapshot.Pod
	}{
		{"many", manyWorld, manyPolicy, manyPod},
		{"crowd", crowd, crowdPolicy, func(i int) snapshot.Pod {
			p := manyPod(i)
			p.Namespace = "team-0"
			return p
		}},
	} {
		var k *nft.Kernel
		var err error
		nstest.New(b).Do(b, func() { k, err = nft.NewTable(policy.TableName) })
		if err != nil {
			b.Fatal(err)
		}
		e := world.engine()
		e.Commit()
		if _, err := k.Ensure(b.Context(), e.Table()); err != nil {
			b.Fatal(err)
		}
		apply := func(b *testing.B) {
			b.Helper()
			if err := k.Apply(b.Context(), changeOf(e.Commit())); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(world.name+"/policy", func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				np := world.policy(0)
				np.Ingress[0].Ports[0].Number = int32(8080 + i%2)
				e.SetNetworkPolicy(np)
				apply(b)
			}
		})
		b.Run(world.name+"/pod", func(b *testing.B) {
			p := world.pod(0)
			for i := 0; b.Loop(); i++ {
				e.Detach("weftp0")
				apply(b)
				e.Attach(policy.Endpoint{Link: "weftp0", Pod: p.Key(), IPs: p.IPs})
				apply(b)
			}
		})
		b.Run(world.name+"/label", func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				p := world.pod(podsHere - 1)
				p.Labels = labelled(fmt.Sprintf("peer=%d", i%2), "app=app-1")
				e.SetPod(p)
				apply(b)
			}
		})
		_ = k.Close()
	}
}
