package diagnosis

import (
	"slices"
	"strings"
)

// Vendor is whose mail server it is. Empty means nobody whose servers are known
// here.
type Vendor string

// The vendors with rows of their own.
const (
	Exchange       Vendor = "exchange"
	Outlook        Vendor = "outlook" // Outlook.com; its servers are Exchange's
	HVE            Vendor = "hve"     // Exchange's High Volume Email
	Gmail          Vendor = "gmail"   // and Google Workspace
	WorkspaceRelay Vendor = "workspace-relay"
	Yahoo          Vendor = "yahoo" // and AOL
	Fastmail       Vendor = "fastmail"
	Zoho           Vendor = "zoho" // and ZeptoMail
	SES            Vendor = "ses"
	SendGrid       Vendor = "sendgrid"
	Mailgun        Vendor = "mailgun"
	Postmark       Vendor = "postmark"
	Brevo          Vendor = "brevo"
)

// family is the vendor whose rows hold for another one too.
func (v Vendor) family() Vendor {
	switch v {
	case Outlook, HVE:
		return Exchange
	case WorkspaceRelay:
		return Gmail
	default:
		return v
	}
}

func (v Vendor) known() bool {
	return v == SES || slices.ContainsFunc(domains, func(d domain) bool { return d.vendor == v })
}

// domain is where servers of a vendor are.
type domain struct {
	name   string
	vendor Vendor
}

// domains has them; the first that fits counts.
var domains = []domain{
	{"smtp-hve.office365.com", HVE},
	{"office365.com", Exchange},
	{"office365.us", Exchange},
	{"partner.outlook.cn", Exchange},
	{"mail.protection.outlook.com", Exchange}, // the servers for incoming mail
	{"mx.microsoft", Exchange},
	{"outlook.com", Outlook},
	{"hotmail.com", Outlook},
	{"live.com", Outlook},
	{"smtp-relay.gmail.com", WorkspaceRelay},
	{"gmail.com", Gmail},
	{"googlemail.com", Gmail},
	{"mail.yahoo.com", Yahoo},
	{"aol.com", Yahoo},
	{"fastmail.com", Fastmail},
	{"messagingengine.com", Fastmail},
	{"zoho.com", Zoho},
	{"zoho.eu", Zoho},
	{"zoho.in", Zoho},
	{"zoho.jp", Zoho},
	{"zoho.sa", Zoho},
	{"zoho.com.au", Zoho},
	{"zoho.com.cn", Zoho},
	{"zohocloud.ca", Zoho},
	{"zeptomail.com", Zoho},
	{"zeptomail.eu", Zoho},
	{"zeptomail.in", Zoho},
	{"sendgrid.net", SendGrid},
	{"mailgun.org", Mailgun},
	{"postmarkapp.com", Postmark},
	{"brevo.com", Brevo},
	{"sendinblue.com", Brevo},
}

// VendorOf tells by a host name, in any case and without a port, whose server
// it is.
func VendorOf(host string) Vendor {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if strings.HasPrefix(host, "email-smtp.") && (within(host, "amazonaws.com") || within(host, "amazonaws.com.cn")) {
		return SES
	}
	for _, d := range domains {
		if within(host, d.name) {
			return d.vendor
		}
	}
	return ""
}

// within reports whether host is domain or below it.
func within(host, domain string) bool {
	rest, ok := strings.CutSuffix(host, domain)
	return ok && (rest == "" || strings.HasSuffix(rest, "."))
}
