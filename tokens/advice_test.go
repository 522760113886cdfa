package tokens

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

func TestAdvice(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		e       Error
		who     Who
		meaning string // part of it; empty for no advice
	}{
		"by number":               {Error{Code: "invalid_client", Numbers: []int{7000222}}, WhoOperator, "expired"},
		"by the number known":     {Error{Code: "invalid_client", Numbers: []int{1, 7000215}}, WhoOperator, "wrong"},
		"by number in the text":   {Error{Code: "access_denied", Description: "AADSTS65004: User declined to consent."}, WhoOwner, "did not consent"},
		"number before text":      {Error{Code: "x", Numbers: []int{53003}, Description: "AADSTS65004: no"}, WhoAdministrator, "rule of the organization"},
		"unknown number, by code": {Error{Code: "invalid_scope", Numbers: []int{1}}, WhoOperator, "scope"},
		"passing":                 {Error{Code: "invalid_grant", Numbers: []int{90033}}, WhoNobody, "trouble"},
		"by code":                 {Error{Code: "deleted_client"}, WhoOperator, "deleted"},
		"by suberror":             {Error{Code: "invalid_grant", Suberror: "invalid_rapt", Kind: KindNeedsPerson}, WhoAdministrator, "session"},
		"unknown suberror":        {Error{Code: "invalid_grant", Suberror: "x", Kind: KindNeedsPerson}, WhoOwner, "ended"},
		"without a person":        {Error{Code: "invalid_grant", Kind: KindConfig}, WhoOperator, "assertion"},
		"no consent":              {Error{Code: "invalid_grant", Numbers: []int{65001}, Kind: KindNeedsPerson}, WhoOwner, "consented"},
		"no consent, no person":   {Error{Code: "invalid_grant", Numbers: []int{65001}, Kind: KindConfig}, WhoAdministrator, "consented"},
		"an EC certificate":       {Error{Code: "invalid_client", Numbers: []int{5002738}, Kind: KindConfig}, WhoOperator, "kind"},
		"odd texts":               {Error{Code: "x", Description: "AADSTS"}, "", ""},
		"odd texts, long":         {Error{Code: "x", Description: "AADSTS99999999999999999999"}, "", ""},
		"odd texts, a word":       {Error{Code: "x", Description: "AADSTSx"}, "", ""},
		"nothing":                 {Error{}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, ok := test.e.Advice()
			if ok != (test.meaning != "") || a.Who != test.who || !strings.Contains(a.Meaning, test.meaning) {
				t.Errorf("%+v, %v", a, ok)
			}
			// It survives being stored.
			if b, ok2 := test.e.failure(certificateEnd).Advice(); b != a || ok2 != ok {
				t.Errorf("of the failure: %+v", b)
			}
		})
	}
}

// Whoever is told to do something is asked by the right page, and by the right
// state of the account.
func TestKindsFitTheAdvice(t *testing.T) {
	t.Parallel()
	for code, a := range codeAdvice {
		if strings.Contains(code, " ") || code == "authorization_pending" { // a person's, and asked for again
			continue
		}
		want := map[Who][]Kind{
			WhoNobody: {KindTransient}, WhoOperator: {KindConfig}, WhoAdministrator: {KindConfig}, WhoOwner: {KindNeedsPerson},
		}[a.Who]
		if kind := kindOf(code, 400); !slices.Contains(want, kind) {
			t.Errorf("%s is %v, and the advice for the %s: %s", code, kind, a.Who, a.Do)
		}
	}
}

// Where nobody signs in, nobody is told to.
func TestMintAdvice(t *testing.T) {
	t.Parallel()
	for _, grant := range []Grant{GrantServiceAccount, GrantClientCredentials} {
		for _, test := range []struct{ code, description string }{
			{"access_denied", ""},
			{"interaction_required", ""},
			{"login_required", ""},
			{"consent_required", ""},
			{"invalid_grant", ""},
			{"invalid_grant", "AADSTS65001: not consented."},
		} {
			f, p := app(t, grant)
			f.server.Next(tokenstest.Fail(400, test.code, test.description))
			_, err := NewClient(p, f.server).mint(t.Context(), f.account.User)
			e, _ := errors.AsType[*Error](err)
			if e == nil || e.Kind != KindConfig {
				t.Fatalf("%s: %v", test.code, err)
			}
			if a, ok := e.Advice(); !ok || a.Who != WhoOperator && a.Who != WhoAdministrator || strings.Contains(a.Do, "sign in") {
				t.Errorf("%v, %s %s: %+v", grant, test.code, test.description, a)
			}
		}
	}
}

// What passes is not always tried again.
func TestPassingAdvice(t *testing.T) {
	t.Parallel()
	all := slices.Collect(maps.Values(codeAdvice))
	for _, row := range entraRows {
		all = append(all, row.advice)
	}
	for _, a := range all {
		if a.Who == WhoNobody && !strings.Contains(a.Do, "a sign-in or an import has to be begun anew") {
			t.Errorf("%+v", a)
		}
	}
}

// Every number that Microsoft's own list gives a cause for has an advice, one.
func TestEntraRows(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for _, row := range entraRows {
		checkAdvice(t, row.advice)
		for _, n := range row.numbers {
			if seen[n] {
				t.Errorf("%d has two", n)
			}
			seen[n] = true
		}
	}
	for _, n := range []int{
		50011, 50020, 50034, 50053, 50055, 50057, 50058, 50132, 50133, 50140, 50072, 50074, 50076, 50078, 50079, 50085, 50089,
		50097, 50105, 50126, 50131, 530032, 530035, 50134, 50173, 50194, 500011, 501481, 53000, 53001, 53002, 53003, 54005,
		65001, 65004, 650052, 650056, 650057, 70000, 70001, 7000112, 70008, 700082, 700084, 70011, 70016, 70018, 70019, 70043,
		700005, 700016, 700020, 700022, 700025, 700027, 700030, 7000215, 7000218, 7000222, 5002738, 90002, 90038, 900144, 9001023,
		901002, 9002313, 90094, 90095,
		50000, 50033, 50087, 50088, 50196, 70012, 80002, 80005, 90006, 90012, 90024, 90033, 90055, 90090, 90091,
	} {
		if !seen[n] {
			t.Errorf("%d has none", n)
		}
	}
	for code, a := range codeAdvice {
		checkAdvice(t, a)
		if code != strings.ToLower(code) {
			t.Errorf("code %q", code)
		}
	}
}

func checkAdvice(t *testing.T, a Advice) {
	t.Helper()
	if a.Meaning == "" || a.Do == "" || strings.HasSuffix(a.Meaning+a.Do, ".") || strings.ToLower(a.Meaning[:1]) != a.Meaning[:1] {
		t.Errorf("%+v", a)
	}
	switch a.Who {
	case WhoOperator, WhoAdministrator, WhoOwner, WhoNobody:
	default:
		t.Errorf("%+v", a)
	}
}
