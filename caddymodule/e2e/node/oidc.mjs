// An authorization server: oidc-provider, as strict as it can be made.
// Its one argument is a JSON object; it prints "ready" when it listens.

// oidc-provider wants Node 22; this is all that it lacks on Node 20.
URL.parse ??= (url, base) => {
  try {
    return new URL(url, base);
  } catch {
    return null;
  }
};

const { default: Provider } = await import('oidc-provider');

const options = JSON.parse(process.argv[2]);
const address = (login) => (login.includes('@') ? login : `${login}@example.com`);

const provider = new Provider(options.issuer, {
  clients: [
    {
      client_id: options.clientID,
      client_secret: options.clientSecret,
      redirect_uris: [options.redirectURI],
      response_types: ['code'],
      grant_types: [
        'authorization_code',
        'refresh_token',
        'client_credentials',
        'urn:ietf:params:oauth:grant-type:device_code',
      ],
      token_endpoint_auth_method: 'client_secret_basic',
    },
    { // an application that signs in as itself
      client_id: 'app-secret',
      client_secret: options.clientSecret,
      redirect_uris: [],
      response_types: [],
      grant_types: ['client_credentials'],
      token_endpoint_auth_method: 'client_secret_post',
    },
    ...(options.appKey ? [{ // the same with a certificate
      client_id: 'app-certificate',
      jwks: { keys: [options.appKey] },
      redirect_uris: [],
      response_types: [],
      grant_types: ['client_credentials'],
      token_endpoint_auth_method: 'private_key_jwt',
      token_endpoint_auth_signing_alg: 'PS256',
    }] : []),
    { // the mail servers, which only ask about tokens
      client_id: 'mailserver',
      client_secret: options.introspectionSecret,
      redirect_uris: [],
      response_types: [],
      grant_types: ['client_credentials'],
      token_endpoint_auth_method: 'client_secret_basic',
    },
  ],
  cookies: { keys: ['e2e'] },
  pkce: { required: () => true },
  scopes: ['openid', 'offline_access', 'smtp.send'],
  claims: { openid: ['sub'], email: ['email', 'email_verified'] },
  conformIdTokenClaims: false, // the ID token names the mailbox, as the big providers' do
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: address(id), email_verified: true }),
  }),
  // What introspection tells the mail server about whose mailbox it is.
  extraTokenClaims: (ctx, token) => ({ username: token.accountId ? address(token.accountId) : 'app@example.com' }),
  rotateRefreshToken: true, // always; reuse of an old one ends the grant
  features: {
    devInteractions: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true, allowedPolicy: () => true },
    deviceFlow: { enabled: true },
    clientCredentials: { enabled: true },
  },
  formats: options.tokenBits ? { bitsOfOpaqueRandomness: options.tokenBits } : undefined,
  ttl: {
    AccessToken: options.tokenLife,
    ClientCredentials: options.tokenLife,
    AuthorizationCode: 60,
    IdToken: 3600,
    RefreshToken: 14 * 24 * 3600,
    Grant: 14 * 24 * 3600,
    Interaction: 600,
    Session: 3600,
    DeviceCode: 600,
  },
});
provider.proxy = true; // its URLs are those of the proxy before it
provider.on('server_error', (ctx, error) => console.error('server_error', error));
provider.on('grant.error', (ctx, error) => console.error('grant.error', error.error, error.error_detail ?? error.error_description));
provider.on('authorization.error', (ctx, error) => console.error('authorization.error', error.error, error.error_detail ?? error.error_description));

provider.listen(options.port, '127.0.0.1', () => console.log('ready'));
