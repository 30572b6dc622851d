package policy_test

import (
	"slices"
	"testing"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
)

// fieldsOf are the fields that problems name, in their order.
func fieldsOf(problems []policy.Problem) []string {
	var out []string
	for _, p := range problems {
		out = append(out, p.Field)
	}
	return out
}

// TestEveryFieldWrong : nothing of a NetworkPolicy can be honoured. What is in its namespace is closed both ways,
// nothing else is, and every field is named.
func TestEveryFieldWrong(t *testing.T) {
	s := play(t, "prod/web@0 app=web", "prod/db@1 app=db", "test/db@3 app=db")
	broken := snapshot.Selector{MatchExpressions: []snapshot.Requirement{{Key: "app", Operator: "Near"}}}
	peers := []npPeer{
		{},
		{IPBlock: &snapshot.IPBlock{CIDR: "10.0.0.0/33"}},
		{IPBlock: &snapshot.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0"}}},
		{IPBlock: &snapshot.IPBlock{CIDR: "0.0.0.0/0"}, PodSelector: selects()},
		{PodSelector: &broken},
		{NamespaceSelector: &broken},
	}
	ports := []npPort{{Protocol: "GRE"}, {Number: 70000}, {Number: 80, EndPort: 79}, {Name: "web", EndPort: 90}}
	s.np(snapshot.NetworkPolicy{Name: "wrong", PodSelector: broken, Types: []string{"Sideways"},
		Ingress: []npRule{{Peers: peers}, {Ports: ports}}, Egress: []npRule{{Peers: peers, Ports: ports}}})
	s.want("prod/db > prod/web tcp 80 denied", "outside > prod/web tcp 80 denied", "prod/web > prod/db udp 53 denied",
		"prod/web > outside tcp 443 denied", "prod/web > test/db tcp 80 denied", "outside > test/db tcp 80 passes")
	want := []string{
		"spec.egress[0].ports[0].protocol", "spec.egress[0].ports[1].port", "spec.egress[0].ports[2].endPort", "spec.egress[0].ports[3].endPort",
		"spec.egress[0].to[0]", "spec.egress[0].to[1].ipBlock.cidr", "spec.egress[0].to[2].ipBlock.except[0]", "spec.egress[0].to[3]",
		"spec.egress[0].to[4].podSelector", "spec.egress[0].to[5].namespaceSelector",
		"spec.ingress[0].from[0]", "spec.ingress[0].from[1].ipBlock.cidr", "spec.ingress[0].from[2].ipBlock.except[0]", "spec.ingress[0].from[3]",
		"spec.ingress[0].from[4].podSelector", "spec.ingress[0].from[5].namespaceSelector",
		"spec.ingress[1].ports[0].protocol", "spec.ingress[1].ports[1].port", "spec.ingress[1].ports[2].endPort", "spec.ingress[1].ports[3].endPort",
		"spec.podSelector", "spec.policyTypes[0]",
	}
	if got := fieldsOf(s.e.Problems()); !slices.Equal(got, want) {
		t.Errorf("the problems name\n%q, want\n%q", got, want)
	}
}

// TestEveryFieldOfATierWrong : the same for ClusterNetworkPolicy, where a denial that cannot be read denies all.
func TestEveryFieldOfATierWrong(t *testing.T) {
	s := play(t, "prod/web@0 app=web", "test/db@3 app=db")
	broken := snapshot.Selector{MatchExpressions: []snapshot.Requirement{{Operator: "Exists"}}}
	s.cnp(snapshot.ClusterNetworkPolicy{
		Name: "wrong", Tier: "Middle", Subject: podPeer{Namespaces: &broken},
		Ingress: []cRule{
			{Action: "Allow", Peers: []cPeer{{}, {Nodes: &broken}, {Networks: []string{"10.0.0.0/8", "ten"}}, {PodPeer: podPeer{Pods: &snapshot.NamespacedPods{Pods: broken}}}}},
			{Action: "Accept", Peers: []cPeer{{PodPeer: everybody}}},
		},
		Egress: []cRule{{Action: "Deny", Peers: []cPeer{{DomainNames: []string{"example.com"}}},
			Protocols: []snapshot.ClusterNetworkPolicyProtocol{{}, {Protocol: "TCP", First: 9, Last: 8}}}, {Action: "Accept"}},
	})
	s.want("outside > prod/web tcp 80 denied", "prod/web > outside tcp 80 denied", "test/db > prod/web udp 53 denied")
	want := []string{
		"spec.egress[0].protocols[0]", "spec.egress[0].protocols[1].destinationPort", "spec.egress[0].to[0].domainNames", "spec.egress[1].to",
		"spec.ingress[0].action", "spec.ingress[0].from[0]", "spec.ingress[0].from[1].nodes", "spec.ingress[0].from[2].networks[1]",
		"spec.ingress[0].from[3].pods.podSelector", "spec.subject.namespaces", "spec.tier",
	}
	if got := fieldsOf(s.e.Problems()); !slices.Equal(got, want) {
		t.Errorf("the problems name\n%q, want\n%q", got, want)
	}
}

// TestThousandsRelabelledAtOnce : 5,000 of 10,000 Pods get another's labels, half of those of this node among
// them. One patch turns the table into what an engine makes that never knew the labels of before.
func TestThousandsRelabelledAtOnce(t *testing.T) {
	e, fresh := worldOf(manyPods), worldOf(manyPods)
	fake := nft.NewFake()
	if _, err := fake.Ensure(t.Context(), e.Table()); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < manyPods; i += 2 {
		p := manyPod(i)
		p.Labels = manyPod(i + 1).Labels
		e.SetPod(p)
	}
	// Elsewhere the Pods come with their labels in the first place.
	for i := range manyPods {
		fresh.DeletePod(manyPod(i).Key())
	}
	for i := range manyPods {
		p := manyPod(i)
		p.Labels = manyPod(i + (i+1)%2).Labels
		fresh.SetPod(p)
	}
	patch := e.Commit()
	if patch.Empty() {
		t.Fatal("nothing has changed")
	}
	if err := fake.Apply(t.Context(), changeOf(patch)); err != nil {
		t.Fatal(err)
	}
	have, _ := fake.Table()
	if want := fresh.Table(); !have.Equal(want) {
		t.Errorf("the table differs:\n%s", lineDiff(have.String(), want.String()))
	}
}
